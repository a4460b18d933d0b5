"""Files of a turntable: what is on a frame, how long it shows, and no ffmpeg."""

import warnings

import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from iso3d_jax.core.errors import UserError
from iso3d_jax.reconstruction import turntable_file
from iso3d_jax.reconstruction.pictures import Turntable


@pytest.fixture
def turn():
    """Six frames of 16 pixels: colour by frame, one normal, opacity from top to bottom."""
    rgb = np.zeros((6, 16, 16, 3), np.uint8)
    rgb[..., 0] = 40 * np.arange(6)[:, None, None]
    normal = np.full((6, 16, 16, 3), (10, 200, 90), np.uint8)
    opacity = np.broadcast_to((np.arange(16) * 16).astype(np.uint8)[:, None], (6, 16, 16))
    return Turntable(rgb, normal, opacity, rgb, opacity)


def no_ffmpeg(monkeypatch):
    def fail():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", fail)


@pytest.mark.parametrize("name", ["t.webp", "t.gif", "t.mp4"])
def test_frames_are_colour_normals_and_opacity_side_by_side(turn, tmp_path, monkeypatch, name):
    if name != "t.mp4":
        no_ffmpeg(monkeypatch)
    turntable_file.write(tmp_path / name, turn, 3.0)
    if name == "t.mp4":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # ffmpeg is started
            warnings.simplefilter("ignore", ResourceWarning)  # imageio's own
            with imageio.get_reader(tmp_path / name) as reader:
                frames = np.stack([np.asarray(frame) for frame in reader])  # pyright: ignore
                meta = reader.get_meta_data()  # pyright: ignore[reportAttributeAccessIssue]
                assert meta["fps"] == 2
    else:
        with Image.open(tmp_path / name) as image:
            assert image.n_frames == 6 and image.info["loop"] == 0
            frames = []
            for k in range(6):
                image.seek(k)
                frames.append(np.asarray(image.convert("RGB")))
                assert image.info["duration"] == 500
        frames = np.stack(frames)
    assert frames.shape == (6, 16, 48, 3)
    colour, normal, grey = np.split(frames.astype(int), 3, 2)
    middle = (slice(None), slice(4, 12), slice(4, 12))
    for got, want in ((colour, turn.rgb), (normal, turn.normal)):
        assert np.abs(got[middle] - want[middle].astype(int)).max() < 16
    want = 255 - turn.opacity[..., None].astype(int)
    assert np.abs(grey - want)[middle].max() < 16


def test_a_round_of_many_frames_shows_each_no_shorter_than_browsers_do(turn, tmp_path):
    turntable_file.write(tmp_path / "t.webp", turn, 0.01)
    with Image.open(tmp_path / "t.webp") as image:
        image.seek(1)
        image.load()
        assert image.info["duration"] == 20


def test_without_ffmpeg_a_run_has_a_webp(tmp_path, monkeypatch):
    assert turntable_file.place(tmp_path).name == "turntable.mp4"
    no_ffmpeg(monkeypatch)
    assert turntable_file.place(tmp_path).name == "turntable.webp"
    with pytest.raises(UserError, match=r"t\.mp4 needs ffmpeg.*or name a \.webp or \.gif file"):
        turntable_file.check(tmp_path / "t.mp4")
    with pytest.raises(UserError, match=r"ends in \.mp4, \.webp or \.gif, not in 't\.avi'"):
        turntable_file.check(tmp_path / "t.avi")
