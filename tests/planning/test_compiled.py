"""The table of programs compiled for chips that are not here."""

import json

import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.planning import absent, compiled

ROW = {
    "program": "sampling", "target": "h100", "dtype": "bfloat16", "teraflops": 989.0,
    "moved_gb": 6700.0, "optional_gb": 5000.0,
    "arithmetic_ms": 1000.0, "memory_ms": 2000.0, "held_gb": 3.0,
    "kernels": 12, "by_file_gb": {"models/unet.py": 6000.0, "models/vae.py": 700.0},
    "moves": [{"what": "copy f32[9]", "source": "", "count": 2, "gb": 0.5},
              {"what": "copy f32[8]", "source": "models/vae.py", "count": 1, "gb": 1.5}],
    "convolutions": [], "islands": [], "gathers": [], "seconds": 4.2,
}  # fmt: skip


def test_a_row_and_what_stands_under_the_table():
    assert compiled.format_row(ROW) == (
        "| sampling | h100 | bfloat16 | 989 | 6.7e+03 (1.7e+03) | 2e+03 (1e+03, 2e+03) "
        "| 3.00 | 12 | 3, 2 | 0 | 0 | 0 | 4 |"
    )
    assert compiled.HEADER.splitlines()[0].count("|") == compiled.format_row(ROW).count("|")
    assert list(compiled.list_findings(ROW, 1)) == [
        "sampling (h100, bfloat16): GB by file: models/unet.py 6e+03, models/vae.py 700",
        "sampling (h100, bfloat16): moves: 1 x copy f32[8] [models/vae.py], 1.5 GB",
    ]


def test_a_stopped_run_goes_on(monkeypatch, tmp_path, capsys, road):
    out = tmp_path / "table.json"
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, f"--out={out}", stop_at="second")
    assert [row["program"] for row in json.loads(out.read_text())] == ["first"]
    assert road == ["first", "second"]
    run(monkeypatch, f"--out={out}")
    assert road == ["first", "second", "second", "third"]
    assert [row["program"] for row in json.loads(out.read_text())] == ["first", "second", "third"]
    printed = capsys.readouterr().out
    assert printed.count("| first | h100 |") == 2 and "third (h100, bfloat16): GB by" in printed


@pytest.mark.parametrize("text", ['[{"program": "first"', '{"rows": []}', '[{"program": 1}]', "3"])
def test_a_file_of_something_else_is_kept(monkeypatch, tmp_path, road, text):
    out = tmp_path / "table.json"
    out.write_text(text)
    with pytest.raises(UserError, match=f"--out: {out} is no table of this command .*move it away"):
        run(monkeypatch, f"--out={out}")
    assert out.read_text() == text and road == []


@pytest.fixture
def road(monkeypatch):
    """Three programs that are nothing; notes which were compiled."""
    from iso3d_jax.planning import programs

    asked = []
    names = ("first", "second", "third")
    monkeypatch.setattr(
        programs, "road", lambda *_: [programs.Program(name, name, ()) for name in names]
    )
    monkeypatch.setattr(compiled, "one_device", lambda chip: None)

    def compile_program(program, chip, dtype):
        asked.append(program.name)
        if program.name == compile_program.stop_at:
            raise KeyboardInterrupt
        return {key: value for key, value in ROW.items() if key not in ("program", "target")}

    compile_program.stop_at = None
    monkeypatch.setattr(compiled, "compile_program", compile_program)
    return asked


def run(monkeypatch, *arguments, stop_at=None):
    monkeypatch.setattr(compiled.compile_program, "stop_at", stop_at)
    given = {"targets": ["h100"], "dtypes": ["bfloat16"], "programs": None, "out": None}
    given |= dict(one.lstrip("-").split("=") for one in arguments)
    for name, value in given.items():
        monkeypatch.setattr(compiled, f"_{name.upper()}", type("Flag", (), {"value": value}))
    compiled.main([])


def test_what_cannot_be_compiled_is_said(refused):
    assert "--targets: 'v100' is none of v5e, v5p" in refused(
        "-m", "iso3d_jax.planning.compiled", "--targets=h100,v100"
    )
    assert "--dtypes: 'float16' is none of" in refused(
        "-m", "iso3d_jax.planning.compiled", "--dtypes=float16"
    )
    if not absent.has_gpu_compiler():
        message = refused("-m", "iso3d_jax.planning.compiled", "--targets=h100")
        assert (
            'jax\'s CUDA plugin, which is not installed: pip install "iso3d_jax[cuda]"' in message
        )


PRODUCT = """
import json
import jax
from iso3d_jax.core import chips
from iso3d_jax.planning import compiled
from iso3d_jax.planning.programs import Program

shape = jax.ShapeDtypeStruct((4096, 4096), "bfloat16")
product = Program("product", lambda x, w: jax.nn.relu(x @ w), (shape, shape))
row = compiled.compile_program(product, chips.CHIPS["h100"], "bfloat16")
print(json.dumps(row))
"""


@pytest.mark.slow
@pytest.mark.skipif(not absent.has_gpu_compiler(), reason="jax's CUDA plugin is not installed")
def test_a_program_for_a_card_that_is_not_here(run_python):
    process = run_python("-c", PRODUCT, XLA_FLAGS=None)  # a new one: jax asks for plugins once
    assert process.returncode == 0, process.stderr
    row = json.loads(process.stdout)
    assert row["teraflops"] == pytest.approx(2 * 4096**3 / 1e12)
    assert row["moved_gb"] == pytest.approx(3 * 2 * 4096**2 / 1e9, rel=0.5)
    assert row["held_gb"] >= 3 * 2 * 4096**2 / 1e9 and not row["islands"]
