"""An export replaces what an export of the run wrote, and nothing else."""

from iso3d_jax.reconstruction.result import _files_of, _not_own, _note_own


def test_only_own_files_are_replaced(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    out = tmp_path / "chair.obj"
    assert _not_own(run, out) is None
    (tmp_path / "chair.png").write_bytes(b"a photo")
    assert _not_own(run, out) == tmp_path / "chair.png"
    assert _not_own(run, tmp_path / "chair.glb") is None
    for file in _files_of(out):
        file.write_bytes(b"written by the run")
    _note_own(run, _files_of(out))
    assert _not_own(run, out) is None
    (tmp_path / "chair.mtl").write_bytes(b"changed by somebody")
    assert _not_own(run, out) == tmp_path / "chair.mtl"


def test_the_run_s_own_mesh_is_always_its_own(tmp_path):
    (tmp_path / "mesh.glb").write_bytes(b"x")
    (tmp_path / "input.png").write_bytes(b"x")
    assert _not_own(tmp_path, tmp_path / "mesh.glb") is None
    assert _not_own(tmp_path, tmp_path / "input.obj") == tmp_path / "input.png"
