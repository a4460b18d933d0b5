"""How fast a run is: steps, objects and operations a second, and what it waits for."""

from __future__ import annotations

import time

from jax.sharding import Mesh

from iso3d_jax.core import chips, flops


class Speed:
    """Counts what happens between two logged steps.

    Args:
      batch_size: objects of a step.
      device_mesh: whose devices do the work.
    """

    def __init__(self, batch_size: int, device_mesh: Mesh):
        self._batch_size, self._devices = batch_size, device_mesh.devices.size
        self._peak = chips.find_peak(device_mesh.devices.flat[0].device_kind)
        self._flops: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """Forgets all but the programs: after a log line, and after what is no training."""
        self._since, self._steps, self._waited, self._work = time.monotonic(), 0, 0.0, 0.0

    def wait(self, seconds: float) -> None:
        """So long the devices waited for data."""
        self._waited += seconds

    def register_flops(self, branch: str, jaxpr) -> None:
        """What a step of a branch does, from its trace; looked at once."""
        if branch not in self._flops:
            self._flops[branch] = flops.count(jaxpr).useful

    def add(self, branch: str) -> None:
        """A step was started."""
        self._steps += 1
        self._work += self._flops[branch]

    def values(self) -> dict[str, float]:
        """Means since the last restart; TFLOP/s are of one device.

        The share of peak is that of the chip's bfloat16 peak; unknown chips have none.
        """
        seconds = max(time.monotonic() - self._since, 1e-9)
        rate = self._work / seconds / self._devices
        values = {
            "steps_per_second": self._steps / seconds,
            "objects_per_second": self._steps * self._batch_size / seconds,
            "tflops_per_device": rate / 1e12,
            "data_wait_share": self._waited / seconds,
        }
        return values | ({"share_of_peak": rate / self._peak} if self._peak else {})
