"""A model in parts of a bounded size, and whole again."""

import subprocess

import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.weights.folders import TINY
from iso3d_jax.weights.parts import find_parts, join_parts, write_parts


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    (folder / "model.zip.099").write_bytes(b"of another model")
    files = write_parts(TINY, folder, most=4_000_000)
    assert files == find_parts(folder)
    sizes = [file.stat().st_size for file in files]
    assert set(sizes[:-1]) == {4_000_000} and 0 < sizes[-1] <= 4_000_000
    whole = (TINY / "model.safetensors").stat().st_size
    assert sum(sizes) < whole  # its bytes are not evenly spread
    return folder


def test_parts_are_the_model_again(parts, tmp_path):
    joined = join_parts(parts, tmp_path / "joined")
    for name in ("model.json", "model.safetensors"):
        assert (joined / name).read_bytes() == (TINY / name).read_bytes()


def test_cat_joins_them_too(parts, tmp_path):
    command = f"cat {parts}/model.zip.* > {tmp_path}/model.zip"
    subprocess.run(command, shell=True, check=True)
    import zipfile

    with zipfile.ZipFile(tmp_path / "model.zip") as whole:
        assert whole.read("model.json") == (TINY / "model.json").read_bytes()


def test_a_part_that_is_gone_or_of_another_model_is_noticed(parts, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    with pytest.raises(UserError, match=r"holds no parts of a model, model\.zip\.000"):
        join_parts(few, tmp_path / "x")
    for part in find_parts(parts)[1:]:
        (few / part.name).write_bytes(part.read_bytes())
    with pytest.raises(UserError, match="no whole model .* one is missing or of another model"):
        join_parts(few, tmp_path / "x")
    (few / "model.zip.000").write_bytes(bytes(4_000_000))
    with pytest.raises(UserError, match="no whole model"):
        join_parts(few, tmp_path / "x")
    assert not (tmp_path / "x").exists()
