"""`python -m iso3d_jax.sample`, as it is typed."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from iso3d_jax import sample
from iso3d_jax.commands import paths
from iso3d_jax.core.errors import UserError

SAMPLE = ("-m", "iso3d_jax.sample")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with two pictures of discs on transparency."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in (("a_red", (220, 30, 30, 255)), ("b_blue", (30, 30, 220, 255))):
        image = Image.new("RGBA", (96, 96))
        ImageDraw.Draw(image).ellipse([20, 30, 70, 80], fill=colour)
        image.save(folder / f"{name}.png")
    return folder


def test_grid_and_separate_views(run_python, model_folder, desk, pictures, tmp_path):
    out = desk / "new" / "views.png"  # `desk` is the home of whoever types this
    common = [*SAMPLE, "--model", model_folder, "--steps=3", "--cell=64"]
    process = run_python(
        *common, "--image", pictures, "--out=~/new/views.png", "--separate", "--num_views=3"
    )
    assert process.returncode == 0, process.stderr
    assert f"wrote {out}" in process.stdout and "compiling" in process.stderr
    assert Image.open(out).size == (4 * 68 + 4, 2 * 68 + 4)
    names = sorted(path.name for path in (desk / "new" / "views").iterdir())
    assert names[:3] == [f"a_red_{k}_azimuth{120 * k:03d}.png" for k in range(3)]
    assert len(names) == 6
    told = process.stdout.partition("left opaque")[2]
    for name in names:
        with Image.open(out.with_suffix("") / name) as view:
            assert view.mode == ("RGB" if name in told else "RGBA")

    # One picture, the same seed: the same views as in the folder's batch.
    single = tmp_path / "single.png"
    again = run_python(
        *common, "--image", pictures / "b_blue.png", "--out", single, "--num_views=3"
    )
    assert again.returncode == 0, again.stderr
    batch, alone = (np.asarray(Image.open(p)).astype(int) for p in (out, single))
    assert np.abs(batch[68:] - alone).max() <= 2


def test_folders_as_people_have_them(run_python, model_folder, tmp_path):
    """Names that collide, hidden files, one that is damaged, one whose name is no text."""
    folder, out = tmp_path / "in", tmp_path / "views.png"
    folder.mkdir()
    image = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(image).ellipse([10, 10, 50, 50], fill=(220, 30, 30, 255))
    image.save(folder / "._a.png", "BMP")
    (folder / "bad.png").write_bytes(b"no picture")
    names = ["A.PNG", "a.jpg", "a.png", "{{body}}.png", os.fsdecode(b"st\xfchl.png")]
    for name in names:
        image.save(folder / name, "PNG")
    process = run_python(
        *SAMPLE, "--model", model_folder, "--steps=1", "--cell=64", "--num_views=1", "--separate",
        "--batch_size=1",
        "--image", folder, "--out", out, "--save_input", tmp_path / "seen",
    )  # fmt: skip
    assert process.returncode == 2, process.stderr
    assert "failed: bad: " in process.stderr and "Traceback" not in process.stderr
    assert "error: 1 of 6 pictures could not be used (bad)" in process.stderr
    with Image.open(out) as sheet:
        assert sheet.size == (2 * 68 + 4, 5 * 68 + 4)
    found = {path.name for path in (tmp_path / "views").iterdir()}
    assert found == {
        f"{name}_0_azimuth000.png"
        for name in ("A.PNG", "a.jpg", "a.png_2", "{{body}}", os.fsdecode(b"st\xfchl"))
    }
    seen = sorted(path.name for path in (tmp_path / "seen").iterdir())
    assert len(seen) == 5 and "{{body}}.png" in seen
    with Image.open(tmp_path / "seen" / "a.jpg.png") as first:
        centre = first.getpixel((first.width // 2, first.height // 2))
        assert centre == pytest.approx((220, 30, 30), abs=3)


def test_what_was_given_is_not_written_over(refused, pictures):
    given = pictures / "a_red.png"
    message = refused(*SAMPLE, "--image", given, "--out", pictures / "." / "a_red.png")
    assert "is the picture that was given: name another file" in message
    message = refused(*SAMPLE, "--image", given, "--out", "new.png", "--save_input", given)
    assert message.startswith("error: --save_input") and "name another file" in message


def test_save_input_loses_no_picture_and_is_what_it_says(pictures, tmp_path):
    """A folder that holds the pictures themselves would have them written over."""
    names = ["a_red", "b_blue"]
    for file in sample.name_inputs(str(pictures), names).values():
        with pytest.raises(UserError, match="is the picture that was given: name another file"):
            paths.check_output("--save_input", file, pictures.iterdir())
    with pytest.raises(UserError, match="x.png is one file and there are 2 pictures: name a fold"):
        sample.name_inputs("x.png", names)
    assert sample.name_inputs("x.PNG", names[:1]) == {"a_red": Path("x.PNG")}
    assert sample.name_inputs(None, names) == {}
    (tmp_path / "x.png").mkdir()
    with pytest.raises(UserError, match="x.png is a folder: name a PNG in it"):
        paths.check_output("--save_input", tmp_path / "x.png", [])


def test_views_of_a_disc_become_transparent_files(tmp_path):
    """A view on white gets a background of alpha 0; one that fills its frame stays, and is told."""
    disc = np.ones((64, 64, 3), np.float32)
    inside = np.hypot(*(np.mgrid[:64, :64] - 31.5)) < 20
    disc[inside] = (0.8, 0.2, 0.1)
    busy = np.random.default_rng(0).random((64, 64, 3)).astype(np.float32)
    opaque = sample.write_views(tmp_path, ["disc"], [[disc, disc, busy]], [0, 180])
    assert opaque == ["disc_1_azimuth180.png"]
    with Image.open(tmp_path / "disc_0_azimuth000.png") as image:
        alpha = np.asarray(image)[..., 3]
    assert (alpha[inside] == 255).mean() > 0.9 and (alpha[~inside] == 0).mean() > 0.9
    with Image.open(tmp_path / opaque[0]) as image:
        assert image.mode == "RGB"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--image={pictures}/none.png", "--out={tmp}/o.png"], ["picture not found", "none.png"]),
        (["--image={tmp}/text.png", "--out={tmp}/o.png"], ["text.png is not a picture"]),
        (["--image={tmp}/empty", "--out={tmp}/o.png"], ["holds no pictures"]),
        (["--image={pictures}", "--out={tmp}/o.jpg"], ["--out must end in .png"]),
        (["--image={pictures}", "--out={tmp}/text.png/o.png"], ["cannot make the folder"]),
        (["--image={pictures}", "--out={tmp}/o.png", "--model={tmp}/no"], ["model folder not"]),
        (["--image={pictures}", "--out={tmp}/o.png", "--model={tmp}"], ["holds no model"]),
        (["--image={pictures}", "--out={tmp}/o.png", "--num_views=0"], ["range [1, 64]"]),
        (["--image={pictures}"], ["--out is required"]),
    ],
)
def test_mistakes_are_one_sentence(refused, pictures, tmp_path, arguments, words):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    message = refused(*SAMPLE, *(a.format(pictures=pictures, tmp=tmp_path) for a in arguments))
    assert all(word in message for word in words), message
