"""`python -m iso3d_jax.evaluate`, as it is typed."""

import json

from PIL import Image, ImageDraw

EVALUATE = ("-m", "iso3d_jax.evaluate")


def test_a_split_a_folder_and_the_ablation(run_python, model_folder, tmp_path):
    common = [*EVALUATE, "--model", model_folder, "--steps=2", "--consistency_objects=0"]
    out = tmp_path / "split"
    process = run_python(*common, "--objects=2", "--consistency_objects=1", "--out", out)
    assert process.returncode == 0, process.stderr
    assert "consistency" in (out / "report.json").read_text()
    report = json.loads((out / "report.json").read_text())
    rows = ["random model", "nearest training object", "mean training picture"]
    assert list(report["views"]) == rows and len(report["objects"]) == 2
    metrics = {"psnr", "ssim", "mask_iou", "colour_error", "embedding", "embedding_to_picture"}
    assert set(report["views"][rows[1]]["mean"]["all"]) == metrics
    assert set(report["code"]) >= {"iso3d_jax", "jax", "python", "device"}
    assert len(report["model"]["sha256 of model.safetensors"]) == 64
    assert (
        "| nearest training object |" in (out / "table.md").read_text()
        and (out / "contact.png").is_file()
    )
    assert (out / "index.html").read_text().count("<img ") == 2 * (1 + 3 * 4)

    process = run_python(*common, "--objects=2", "--ablate", "--out", tmp_path / "ablation")
    assert process.returncode == 0, process.stderr
    again = json.loads((tmp_path / "ablation" / "report.json").read_text())
    assert again["ablation"] == report["ablation"] and "views" not in again
    assert again["data"]["digest"] == report["data"]["digest"]

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    image = Image.new("RGBA", (96, 96))
    ImageDraw.Draw(image).ellipse([20, 30, 70, 80], fill=(220, 30, 30, 255))
    image.save(pictures / "disc.png")
    process = run_python(*common, "--images", pictures, "--out", tmp_path / "folder")
    assert process.returncode == 0, process.stderr
    alone = json.loads((tmp_path / "folder" / "report.json").read_text())
    assert set(alone["views"][rows[0]]["mean"]["all"]) == {"embedding_to_picture"}
    assert "ablation" not in alone and alone["objects"][0]["name"] == "disc"

    (tmp_path / "gso" / "disc-gt").mkdir(parents=True)
    for k in range(16):
        image.save(tmp_path / "gso" / "disc-gt" / f"{k:03d}.png")
    process = run_python(*common, "--gso", tmp_path / "gso", "--out", tmp_path / "scanned")
    assert process.returncode == 0, process.stderr
    scanned = json.loads((tmp_path / "scanned" / "report.json").read_text())
    assert set(scanned["views"][rows[0]]["mean"]["all"]) == metrics
    assert len(scanned["objects"][0]["azimuth_deg"]) == 16
    assert all(count == 2 for count in scanned["views"][rows[0]]["isotropy"]["psnr"]["views"])
    assert "another_embedding" not in scanned["ablation"]  # there is one object


def test_flags_that_do_not_go_together_are_refused(refused, tmp_path):
    command = [*EVALUATE, "--out", tmp_path / "out"]
    assert "exclude each other" in refused(*command, "--images", tmp_path, "--gso", tmp_path)
    assert "belong together" in refused(*command, "--runs", tmp_path)
    assert "holds no meshes" in refused(*command, "--runs", tmp_path, "--meshes", tmp_path)
