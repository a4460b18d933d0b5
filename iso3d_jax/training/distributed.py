"""Several processes as one run: who they are and where they meet.

Three ways, the first that fits: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID in
the environment; a cluster that jax knows (SLURM, Open MPI, Kubernetes, a TPU pod); neither, which
is one process on its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from iso3d_jax.core.errors import UserError

_OWN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
HEARTBEAT_SECONDS = 30  # a process that says nothing for so long is gone
SHUTDOWN_SECONDS = 20
MEETING_SECONDS = 3600  # the slowest compiler of all hosts; a process that is gone is seen at once


def is_expected(environment: Mapping[str, str]) -> bool:
    """Whether the environment says that this process is one of several."""
    return (
        _OWN[0] in environment
        or int(environment.get("SLURM_NTASKS", "1")) > 1
        or int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    )


def initialize(asked: bool | None) -> None:
    """Joins the run's other processes, before anything else touches jax.

    Args:
      asked: True joins, False does not, None joins where the environment says so.

    Raises:
      UserError: the processes cannot be found, or do not find each other.
    """
    if asked is False or (asked is None and not is_expected(os.environ)):
        return
    import jax

    given = [name for name in _OWN if name in os.environ]
    if given and len(given) < len(_OWN):
        missing = ", ".join(name for name in _OWN if name not in given)
        raise UserError(f"{given[0]} is set, but {missing} not: set all three or none")
    own: dict[str, Any] = {}
    if given:
        own = dict(
            coordinator_address=os.environ[_OWN[0]],
            num_processes=_number(_OWN[1]),
            process_id=_number(_OWN[2]),
        )
    try:
        jax.distributed.initialize(
            **own,
            initialization_timeout=300,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"the processes of this run did not find each other ({reason}); set {', '.join(_OWN)}, "
            "or leave --distributed out for a single process"
        ) from error


def barrier(place: str) -> None:
    """Waits for all processes, through the coordinator; returns at once where there is one alone.

    A collective gives up when some process joins it half a minute late (on CPUs by gloo, elsewhere
    by the network's own clock), so nobody begins one while another still compiles or draws.
    """
    import orbax.checkpoint as ocp

    ocp.multihost.get_barrier_sync_fn()(key=place, timeout_ms=MEETING_SECONDS * 1000)


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError:
        raise UserError(f"{name} must be a whole number, not '{os.environ[name]}'") from None
