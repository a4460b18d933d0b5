"""Files that meshes name are read beside them, as people write their names, and nowhere else."""

import os
import zipfile

import pytest

from iso3d_jax.data import beside
from iso3d_jax.data.beside import NotThere, archive_reader, folder_reader, read_member


@pytest.fixture
def place(tmp_path):
    """A mesh's folder within another: (a reader of it, the folder)."""
    folder = tmp_path / "mesh"
    (folder / "Maps").mkdir(parents=True)
    (folder / "oak.png").write_bytes(b"oak")
    (folder / "Maps" / "Elm Wood.PNG").write_bytes(b"elm")
    (folder / "caf\u00e9.png").write_bytes(b"cafe")
    (tmp_path / "secret.png").write_bytes(b"secret")
    return folder_reader(folder), folder


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("oak.png", b"oak"),
        ("./oak.png", b"oak"),
        ("OAK.PNG", b"oak"),
        ("Maps\\Elm Wood.PNG", b"elm"),
        ("maps/elm wood.png", b"elm"),
        ("Maps/../oak.png", b"oak"),
        ("C:\\Users\\me\\models\\oak.png", b"oak"),
        ("/home/me/models/Oak.png", b"oak"),
        ("\\\\server\\share\\oak.png", b"oak"),
        ("file:///home/me/oak.png", b"oak"),
        ("../textures/oak.png", b"oak"),
        ("cafe\u0301.png", b"cafe"),
    ],
)
def test_names_are_found_as_people_write_them(place, name, data):
    assert place[0](name) == data


@pytest.mark.parametrize(
    "name", ["../secret.png", "Maps/../../secret.png", "..\\secret.png", "/etc/passwd"]
)
def test_nothing_outside_is_opened(place, name, monkeypatch):
    opened = []
    original = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *a, **k: opened.append(path) or original(path, *a, **k)
    )
    with pytest.raises(NotThere, match="outside of the mesh's folder"):
        place[0](name)
    assert not opened


@pytest.mark.parametrize("name", ["", ".", "a\0b", "/", "x" * 5000, "gone.png", "oak.png/x", ".."])
def test_what_is_not_there_is_one_sentence(place, name):
    with pytest.raises(NotThere):
        place[0](name)


def test_links_that_leave_devices_and_pipes_are_refused(place):
    read, folder = place
    (folder / "inner.png").symlink_to(folder / "oak.png")
    (folder / "outer.png").symlink_to(folder.parent / "secret.png")
    (folder / "outer").symlink_to(folder.parent)
    (folder / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    assert read("inner.png") == b"oak"
    for name in ("outer.png", "outer/secret.png", "zero.png"):
        with pytest.raises(NotThere, match="a link to outside"):
            read(name)
    for name in ("pipe.png", "Maps"):
        with pytest.raises(NotThere, match="not a plain file|cannot be read"):
            read(name)


def test_files_have_a_largest_size(place, monkeypatch):
    monkeypatch.setattr(beside, "MOST_BYTES", 2)
    with pytest.raises(NotThere, match="has 3 bytes, and the most is 2"):
        place[0]("oak.png")


def test_members_of_an_archive_are_found_the_same_way(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("models/chair/chair.obj", b"obj")
        archive.writestr("models/Oak.png", b"oak")
        archive.writestr("models/chair/elm.png", b"elm")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        read = archive_reader(archive, "models/chair")
        assert read("elm.png") == read("C:\\x\\ELM.png") == b"elm"
        assert read("../oak.png") == b"oak"  # still inside of the archive
        for name in ("../../../etc/passwd", "gone.png", "/etc/passwd"):
            with pytest.raises(NotThere):
                read(name)


def test_members_are_unpacked_no_further_than_they_say(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", b"\0" * 100_000)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.getinfo("bomb").file_size = 10  # as its header would lie
        with pytest.raises(NotThere, match="damaged"):
            read_member(archive, "bomb")
        archive.getinfo("bomb").file_size = 100_000
        monkeypatch.setattr(beside, "MOST_BYTES", 50_000)
        with pytest.raises(NotThere, match="has 100,000 bytes"):
            read_member(archive, "bomb")


@pytest.mark.parametrize(("field", "value"), [(6, 1), (8, 99)])  # encrypted; no such compression
def test_members_that_cannot_be_unpacked_say_so(tmp_path, field, value):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", b"x")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[field] = data[data.index(b"PK\1\2") + field + 2] = value
    (tmp_path / "a.zip").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        with pytest.raises(NotThere, match="cannot be unpacked"):
            read_member(archive, "a")
