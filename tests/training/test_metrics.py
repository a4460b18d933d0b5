"""Where a run's numbers go."""

import json
import sys
import types

import numpy as np
import pytest

from iso3d_jax.errors import UserError
from iso3d_jax.training.metrics import MetricsWriter


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 3}')
    return tmp_path


def test_weights_and_biases_gets_what_the_files_get(workdir, monkeypatch):
    """A resumed run goes on with the same one: its id is the workdir's."""
    said = []
    run = types.SimpleNamespace(
        log=lambda values, step: said.append((step, values)), finish=lambda: said.append("finished")
    )
    starts = []
    fake = types.ModuleType("wandb")
    fake.init = lambda **options: starts.append(options) or run
    fake.Image = lambda pixels: pixels.shape
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (1, 2):
        writer = MetricsWriter(workdir, step - 1, "chairs")
        writer.scalars(step, {"loss": 0.5 / step})
        writer.picture(step, "samples", np.zeros((4, 6, 3)))
        writer.close()
    first, second = starts
    assert first == second and first["project"] == "chairs" and first["resume"] == "allow"
    assert first["config"] == {"seed": 3}
    once = [(1, {"loss": 0.5}), (1, {"samples": (4, 6, 3)}), "finished"]
    assert said == once + [(2, {"loss": 0.25}), (2, {"samples": (4, 6, 3)}), "finished"]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    assert len(list((workdir / "samples").iterdir())) == 2


def test_without_weights_and_biases_the_message_says_how_to_install_it(workdir, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install -e \"\.\[wandb\]\""):
        MetricsWriter(workdir, 0, "chairs")
