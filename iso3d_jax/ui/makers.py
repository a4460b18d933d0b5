"""Makes views and objects with a `Pipeline`, for the workers of the page."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from iso3d_jax import sampling
from iso3d_jax.pipeline import Pipeline
from iso3d_jax.reconstruction import loop
from iso3d_jax.reconstruction.result import Reconstruction
from iso3d_jax.ui.runs import Drawn
from iso3d_jax.ui.workers import Maker, Stopped
from iso3d_jax.views import Views

WARM_UP_SIDE = 64  # pixels of a picture that is nobody's


class PipelineMaker:
    """A pipeline on one device; see `workers.Maker`.

    Args:
      device: of jax's.
      config: of presets.reconstruct, for the mode 'full'; 'draft' fits sampled views alone.
    """

    def __init__(self, pipe: Pipeline, device: Any, config: ConfigDict):
        self._pipe, self._device, self._config = pipe, device, config
        model = pipe.model.config
        self.about = f"the model '{model.name}' ({model.resolution}x{model.resolution} pixels) on "
        self.about += device.device_kind if device.platform != "cpu" else "the processor"
        self.guidance_scale = float(sampling.settings(model)["guidance_scale"])

    def warm_up(self) -> None:
        """Compiles what draws views."""
        picture = np.full((WARM_UP_SIDE, WARM_UP_SIDE, 4), 128, np.uint8)
        picture[..., 3] = 255
        self.views(picture, Drawn(0, self.guidance_scale))

    def views(self, picture: np.ndarray, drawn: Drawn) -> Views:
        """Four views."""
        with self._here():
            return self._pipe.views(
                picture, seed=drawn.seed, guidance_scale=drawn.guidance_scale,
                remove_background="never",
            )  # fmt: skip

    def object(self, views: Views, out: Path, mode: str, name: str, on_step: Callable) -> None:
        """The object, or what is left to do of it."""
        config = ConfigDict(self._config.to_dict())
        if mode == "draft":
            config.mode = "views"
            side = (
                self._pipe.model.config.resolution
            )  # half of a draft's time went into larger ones
            config.video.resolution = min(config.video.resolution, side)
        drafted = config.draft.steps if config.mode == "views" or config.init == "views" else 0

        def tell(step: int, total: int, preview: np.ndarray | None) -> bool:
            if step >= total:
                return on_step("files", 0, 0, preview)
            if step < drafted:
                return on_step("draft", step, drafted, preview)
            return on_step("optimisation", step - drafted, total - drafted, preview)

        try:
            with self._here():
                self._pipe.reconstruct(views, out=out, config=config, on_step=tell, name=name)
        except loop.Interrupted:
            raise Stopped from None

    def export(self, folder: Path, path: Path) -> Any:
        """The mesh on the surface that the run chose."""
        with self._here():
            result = Reconstruction.load(folder)
            return result.export(path, threshold=result.report["mesh"]["threshold"])

    @contextlib.contextmanager
    def _here(self) -> Iterator[None]:
        with jax.default_device(self._device):
            yield


def load_makers(
    source: str | None, dtype: str | None, config: ConfigDict
) -> Sequence[Callable[[], Maker]]:
    """Loads a model; returns for each device what makes its maker.

    Args:
      source: as of `Pipeline.from_pretrained`.
      dtype: of the networks.
      config: see `PipelineMaker`.

    Raises:
      UserError: as of `Pipeline.from_pretrained`.
    """
    pipe = Pipeline.from_pretrained(source, dtype=dtype)
    devices = jax.local_devices()
    if len(devices) == 1 or config.parallelism == "views":  # all devices make one object
        return [lambda: PipelineMaker(pipe, devices[0], config)]

    def maker_on(device: Any) -> Callable[[], Maker]:
        return lambda: PipelineMaker(pipe.on_device(device), device, config)

    return [maker_on(device) for device in devices]
