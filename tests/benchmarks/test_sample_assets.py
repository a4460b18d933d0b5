"""benchmarks/sample_assets.py: what it says of a file, and which picture it lays beside it."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import sample_assets
from iso3d_jax.data import asset_sources

TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"


class Machine:
    """A renderer that sees a thing from one side alone."""

    def __init__(self, seen_from=(0, 1)):
        self.seen_from, self.asked = seen_from, 0

    def load(self, parts):
        self.asked = 0

    def render(self, c2w, fov_deg):
        alpha = 255 * (self.asked in self.seen_from)
        self.asked += 1
        return np.full((4, 4, 4), alpha, np.uint8)


def attempt(folder, text, machine=None):
    (folder / "x.obj").write_text(text)
    (asset,) = asset_sources.find_assets([str(folder)])
    found = sample_assets.attempt(machine or Machine(), asset)
    return found["outcome"], found["said"]


def test_outcomes_are_told_apart(tmp_path, monkeypatch):
    whole = TRIANGLE + "f 1 2 3\n"
    assert attempt(tmp_path, whole) == ("rendered", "")
    assert attempt(tmp_path, whole, Machine(seen_from=(1,))) == ("rendered", "")
    assert attempt(tmp_path, whole, Machine(seen_from=())) == ("empty", "")
    outcome, said = attempt(tmp_path, "mtllib gone.mtl\n" + whole)
    assert outcome == "with note" and "gone.mtl is not there" in said
    assert attempt(tmp_path, TRIANGLE) == ("left out", "the OBJ file has no triangles")
    monkeypatch.setattr(asset_sources, "load_asset", lambda asset, note: 1 // 0)
    outcome, said = attempt(tmp_path, whole)
    assert outcome == "fault" and said.startswith("ZeroDivisionError: ")
    monkeypatch.setattr(asset_sources, "load_asset", lambda asset, note: np.empty(2**58))
    with pytest.raises(MemoryError):
        attempt(tmp_path, whole)


def test_forms_of_a_model_are_compared_with_its_first(tmp_path):
    def row(folder, value):
        path = tmp_path / "Box" / folder / "Box.gltf"
        picture = np.full((2, 2, 4), [value, value, value, 255], np.uint8)
        return {"path": path, "picture": picture, "outcome": "rendered", "said": ""}

    rows = [row("glTF", 100), row("glTF-Draco", 103), row("glTF-Binary", 150), row("other", 0)]
    rows.insert(0, row("glTF-Lost", 0) | {"picture": None})
    sample_assets.compare_forms(rows)
    assert [r.get("unlike") for r in rows] == [None, None, None, 50.0, None]
    assert sample_assets.describe(rows[3]) == "rendered (unlike the first form by 50.0)"
    assert sample_assets.describe(rows[0] | {"said": "why"}) == "rendered: why"


def test_a_sheet_has_the_models_own_picture_at_the_left(tmp_path):
    own = tmp_path / "Box" / "screenshot"
    own.mkdir(parents=True)
    (tmp_path / "Box" / "glTF").mkdir()
    for name, colour in (("a_fault.png", "red"), ("screenshot.png", "lime")):
        Image.new("RGB", (40, 40), colour).save(own / name)
    picture = np.full((8, 8, 4), [0, 0, 255, 255], np.uint8)
    path = tmp_path / "Box" / "glTF" / "Box.gltf"
    row = {"name": "Box", "path": path, "picture": picture, "outcome": "rendered", "said": ""}
    sample_assets.write_sheets([row], tmp_path / "sheets")
    sheet = Image.open(tmp_path / "sheets" / "sheet_00.png")
    assert sheet.getpixel((5, 5)) == (0, 255, 0)
    assert sheet.getpixel((sample_assets.CELL + 5, 5)) == (0, 0, 255)
