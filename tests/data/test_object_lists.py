"""Lists of uids and metadata in the forms in which they are published."""

import gzip
import json

import pytest
from furniture_files import write_folder
from test_render_objects import in_process, manifest  # noqa: F401 (a fixture)

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import object_lists, render

UIDS = {"00a1", "00b2", "00c3"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("uids.txt", "00a1\n\n 00b2 \n00c3\n"),
        ("paths.txt", "glbs/000-023/00a1.glb\nglbs\\000-023\\00b2.glb\n00c3\n"),
        ("uids.json", '["00a1", "00b2", "glbs/00c3.glb"]'),
        ("object-paths.json", '{"00a1": "glbs/00a1.glb", "00b2": "x", "00c3": "y"}'),
        ("lvis.json", '{"chair": ["00a1", "00b2"], "apple": ["00c3"]}'),
        ("captions.csv", '00a1,"a chair, blue"\n00b2,a cup\n00c3,a lamp\n'),
    ],
)
def test_lists_are_read_in_their_forms(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert object_lists.read_uids(str(tmp_path / name)) == UIDS
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    assert object_lists.read_uids(str(tmp_path / f"{name}.gz")) == UIDS


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("a.json", b"[", "is damaged"), ("b.json", b"3", "holds no uids"), ("c.txt", b"\n", "no uids"),
     ("d.gz", b"\x1f\x8bxx", "cannot be read"), ("e.txt", b"\xff\xfe\x00", "cannot be read"),
     ("none.txt", None, "cannot be read")],
)  # fmt: skip
def test_what_is_no_list_is_a_sentence(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        object_lists.read_uids(str(tmp_path / name))


@pytest.mark.parametrize(
    ("text", "name"),
    [("by", "CC-BY-4.0"), ("by-nc-sa", "CC-BY-NC-SA-4.0"), ("CC0", "CC0-1.0"),
     ("by-nd", "CC-BY-ND-4.0"),
     ("Creative Commons - Attribution - Non-Commercial", "CC-BY-NC-4.0"),
     ("Creative Commons - Attribution - NoDerivatives", "CC-BY-ND-4.0"),
     ("Creative Commons - Public Domain Dedication", "CC0-1.0"), ("", "unknown"),
     ("MIT License", "MIT License"), ("by the sea", "by the sea")],
)  # fmt: skip
def test_licences_have_their_spdx_names(text, name):
    assert object_lists.spdx_name(text) == name


def objaverse(uid, license):
    """An object of Objaverse's metadata."""
    return {
        "uid": uid, "name": f"A\n {uid}", "license": license, "tags": [{"name": "x"}],
        "user": {"username": "ann", "displayName": "Ann|B"},
        "categories": [{"name": "furniture-home"}, {"name": "people"}],
    }  # fmt: skip


def test_metadata_is_read_from_a_file_or_all_of_a_folder(tmp_path):
    some = {uid: objaverse(uid, "by") for uid in ("00a1", "00b2")}
    (tmp_path / "000-000.json.gz").write_bytes(gzip.compress(json.dumps(some).encode()))
    (tmp_path / "000-001.json").write_text(json.dumps({"00c3": {}, "00d4": objaverse("00d4", "")}))
    (tmp_path / "readme.txt").write_text("no JSON")
    found = object_lists.read_metadata(str(tmp_path), {"00a1", "00c3"})
    assert found == {
        "00a1": object_lists.Known("A 00a1", "furniture-home", "Ann|B", "CC-BY-4.0"),
        "00c3": object_lists.Known("", "", "", "unknown"),
    }
    assert list(object_lists.read_metadata(str(tmp_path / "000-001.json"), UIDS)) == ["00c3"]
    for wrong in (tmp_path / "none.json", tmp_path / "readme.txt", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="no such file, or no JSON|is damaged"):
            object_lists.read_metadata(str(wrong), UIDS)


def test_only_listed_objects_of_the_licences_asked_for_are_rendered(tmp_path, in_process, capsys):  # noqa: F811
    write_folder(tmp_path / "m" / "000-023", ["00a1", "00b2", "00c3", "00d4"], y=0.5)
    (tmp_path / "uids.txt").write_text("00a1\n00b2\n00c3\n00ff\n")
    known = {"00a1": objaverse("00a1", "by"), "00b2": objaverse("00b2", "by-nc")}
    (tmp_path / "known.json").write_text(json.dumps(known))
    render.render_dataset(
        [str(tmp_path / "m")], tmp_path / "out", render.How(8, 1),
        render.Chosen(
            uids=str(tmp_path / "uids.txt"), metadata=str(tmp_path / "known.json"),
            licenses=["cc0-1.0", "CC-BY-4.0"],
        ),
    )  # fmt: skip
    found = manifest(tmp_path / "out")
    assert {e["name"].rpartition("_")[2]: (e["status"], e["license"], e["creator"], e["category"])
            for e in found.values()} == {
        "00a1": ("rendered", "CC-BY-4.0", "Ann|B", "furniture-home"),
        "00b2": ("refused", "CC-BY-NC-4.0", "Ann|B", "furniture-home"),
        "00c3": ("refused", "unknown", "unknown", ""),
    }  # fmt: skip
    assert "3 of the 4 objects" in capsys.readouterr().out
    skipped = (tmp_path / "out" / "skipped.txt").read_text()
    assert "its licence is CC-BY-NC-4.0, which is not one of --licenses" in skipped
    assert "Ann/B | CC-BY-4.0" in (tmp_path / "out" / "CREDITS.md").read_text()
