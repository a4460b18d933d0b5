"""All parts in a few steps, stopped once on the way; how the seconds are shared out."""

import json
import math
import zipfile

import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.models.params import count_params
from iso3d_jax.presets import quarter_hour as preset
from iso3d_jax.tiny.quarter_hour import run as quarter_hour
from iso3d_jax.tiny.quarter_hour.schedule import PARTS, Schedule
from iso3d_jax.weights import bundle, parts
from iso3d_jax.weights.model_spec import ModelSpec


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def finished(packed_file, tmp_path_factory):
    """A run that ended between stage 1's last step and its mark, and went on; what it noted then
    and at its end."""
    folder = tmp_path_factory.mktemp("run")
    arguments = (packed_file, folder / "out", folder / "work")

    def killed(*_):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quarter_hour, "export_compact", killed)
        with pytest.raises(Killed):
            quarter_hour.run(*arguments, toy=True)
    before = json.loads((folder / "out" / "schedule.json").read_text())
    table = quarter_hour.run(*arguments, toy=True)
    return arguments, before, table


@pytest.mark.long
def test_a_run_that_was_killed_goes_on_with_what_was_chosen(finished):
    (_, out, work), before, _ = finished
    after = json.loads((out / "schedule.json").read_text())
    assert after == json.loads((work / "schedule.json").read_text())
    assert set(after["parts"]) == set(PARTS) and all(p["done"] for p in after["parts"].values())
    assert set(before["parts"]) == {"autoencoder", "image_tower", "stage1"}
    assert "done" not in before["parts"]["stage1"]
    for name, part in before["parts"].items():
        noted = after["parts"][name]
        assert part.items() <= noted.items()  # until_seconds too: nothing was done again
    assert after["spent_seconds"] > before["spent_seconds"] > 0
    for name in PARTS[:-1]:
        lines = (work / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


@pytest.mark.long
def test_the_small_folder_has_few_files_and_a_model_that_samples(finished, tmp_path, run_python):
    (_, out, _), _, table = finished
    files = sorted(path.name for path in out.iterdir())
    assert files == ["details.zip", "model.zip.000", "schedule.json", "table.md"]
    assert all(path.stat().st_size <= 16e6 for path in out.iterdir())
    with zipfile.ZipFile(out / "details.zip") as details:
        names = set(details.namelist())
    assert {f"{name}/metrics.jsonl" for name in PARTS[:-1]} < names
    assert {"evaluation_plain/report.json", "evaluation_mirrored/report.json"} < names
    assert table == (out / "table.md").read_text()
    head, _, *rows = table.splitlines()[2:]
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [
        "answer", "plain: PSNR", "plain: SSIM", "plain: mask IoU",
        "mirrored: PSNR", "mirrored: SSIM", "mirrored: mask IoU",
    ]  # fmt: skip
    scores = {row.split("|")[1].strip(): row.split("|")[2:-1] for row in rows}
    assert set(scores) == {"tiny model", "nearest training object", "mean training picture"}
    assert all(math.isfinite(float(cell)) for row in scores.values() for cell in row)

    joined = run_python("-m", "iso3d_jax.tiny.quarter_hour.join", "--parts", out, "--out",
                        tmp_path / "model")  # fmt: skip
    assert joined.returncode == 0, joined.stderr
    sampled = run_python(
        "-m", "iso3d_jax.sample", "--model", tmp_path / "model", "--out", tmp_path / "views.png",
        "--image", "iso3d_jax/data/examples/sofa.png",
    )  # fmt: skip
    assert sampled.returncode == 0, sampled.stderr
    assert (tmp_path / "views.png").stat().st_size > 0


@pytest.mark.long
def test_a_finished_run_says_its_table_again_and_another_is_refused(finished):
    arguments, _, table = finished
    assert quarter_hour.run(*arguments, toy=True) == table
    with pytest.raises(UserError, match="holds another run .seconds was 600.0, is 300.0."):
        quarter_hour.run(*arguments, seconds=300.0, toy=True)


def test_pictures_of_another_size_are_refused_at_once(packed_file, tmp_path):
    with pytest.raises(UserError, match="has pictures of 32 pixels, and this model wants 128"):
        quarter_hour.run(packed_file, tmp_path / "out", tmp_path / "work")
    assert not list(tmp_path.iterdir())


def schedule(tmp_path, spent, seconds=600.0, **parts):
    file = tmp_path / "schedule.json"
    file.write_text(json.dumps({"spent_seconds": spent, "parts": parts}))
    return Schedule(file, tmp_path / "copy.json", seconds)


def test_seconds_are_shared_out_by_what_was_timed(tmp_path):
    """Of 600: 66 for the autoencoder, until 162 the tower; 54 for scores and 48 for the decoder."""
    noted = {"steps_per_second": 10.0, "compile_seconds": 30.0}
    parts = {name: dict(noted) for name in ("autoencoder", "image_tower", "stage1")}
    for spent, part, want in (
        (40.0, "autoencoder", 260),  # 26 s at 10 a second
        (100.0, "image_tower", 620),
        (238.0, "stage1", 1400),  # .7 of 600 - 238 - 102 - 60 = 200 s
        (378.0, "stage2", 500),  # 600 - 378 - 162 = 60 s, a step 1.2 times as long
        (500.0, "decoder", 180),  # .03 of 600 s
        (540.0, "decoder", 60),  # what is left before the scores
        (599.0, "stage2", 0),
    ):
        found = schedule(tmp_path, spent, **parts).steps_for(part)
        assert want - 3 <= found <= want, part


def test_the_tower_sees_pictures_with_the_weights_of_the_file(packed_file, tmp_path, monkeypatch):
    """The toy has no such features, so the loop's part is not run here."""
    job = quarter_hour.Run(packed_file, tmp_path, tmp_path, seconds=9.0, seed=0, toy=True)
    job.toy, given = False, []
    monkeypatch.setattr(quarter_hour.ImageTowerTask, "__init__", lambda _, *a: given.append(a))
    job.tower()
    (cfg, encoder), want = given[0], quarter_hour.read_features(packed_file)
    assert cfg.model.network("clip").features_at == 128 and cfg.data_weights == (0.5, 0.5)
    shapes = bundle.abstract_network("clip", cfg.model)[1]
    theirs = {k.removeprefix("encoder/"): v.shape for k, v in shapes.items() if "encoder/" in k}
    assert theirs == {path: weight.shape for path, weight in encoder.items()}
    assert all((encoder[path] == weight).all() for path, weight in want.items())


def test_the_model_is_of_the_size_that_its_folder_is_made_for():
    """60 to 100 million weights in the UNet, and in at most five parts beside three other files."""
    spec = ModelSpec.read(preset.model().to_dict())
    assert (bundle.make_config(spec).latent_size, spec.network("unet").layout_size) == (16, 16)
    weights = {
        name: count_params(bundle.abstract_network(name, spec)[1])
        for name in ("unet", "vae", "clip")
    }
    assert 60e6 < weights["unet"] < 100e6
    # A byte a weight, four for each output channel's scale, and what is small in two.
    assert 1.01 * sum(weights.values()) < 5 * parts.MOST < 5 * 16e6
