"""Who the processes of a run are, from the environment; jax is only told."""

import jax
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.training import distributed

OWN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@pytest.fixture
def told(monkeypatch):
    """What `jax.distributed.initialize` was called with; no variable of a run is set."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: calls.append(given))
    for name in (*OWN, "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_the_environments_own_three_are_given(told, monkeypatch):
    for name, value in zip(OWN, ("host:1234", "4", "3"), strict=True):
        monkeypatch.setenv(name, value)
    distributed.initialize(None)
    (given,) = told
    assert given["coordinator_address"] == "host:1234"
    assert (given["num_processes"], given["process_id"]) == (4, 3)
    assert given["heartbeat_timeout_seconds"] == 30 and given["shutdown_timeout_seconds"] == 20


def test_some_of_the_three_are_refused_by_name(told, monkeypatch):
    monkeypatch.setenv(OWN[1], "4")
    with pytest.raises(UserError, match=f"{OWN[1]} is set, but {OWN[0]}, {OWN[2]} not"):
        distributed.initialize(True)
    assert not told


def test_a_cluster_that_jax_knows_is_left_to_jax(told, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    distributed.initialize(None)
    assert len(told) == 1 and "coordinator_address" not in told[0]
    monkeypatch.setenv("SLURM_NTASKS", "1")
    distributed.initialize(None)
    distributed.initialize(False)
    assert len(told) == 1
    distributed.initialize(True)
    assert len(told) == 2
