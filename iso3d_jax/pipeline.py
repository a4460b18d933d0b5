"""What the commands, a notebook and a page in the browser call: a picture to views and a mesh.

    import iso3d_jax as iso3d

    pipe = iso3d.Pipeline.from_pretrained()
    views = pipe.views("chair.png", seed=1)
    result = pipe.reconstruct(views)
    result.export("chair.glb")

Nothing here is global: two pipelines live beside each other, each with its model and its compiled
programs.
"""

from __future__ import annotations

import copy
import functools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from iso3d_jax import sampling
from iso3d_jax.commands.config_presets import nearest
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import atomic_path, explain_os_errors
from iso3d_jax.data import grids
from iso3d_jax.data.picture_files import PictureSource
from iso3d_jax.data.pictures import MODES, load_picture
from iso3d_jax.data.posed_pictures import PosedPictures
from iso3d_jax.pages.live_page import LivePage
from iso3d_jax.pages.run_page import write_run_page
from iso3d_jax.presets import reconstruct as presets
from iso3d_jax.reconstruction import batch, loop, run
from iso3d_jax.reconstruction.init import draft
from iso3d_jax.reconstruction.init.framing import fit_to_scene
from iso3d_jax.reconstruction.result import Reconstruction
from iso3d_jax.reconstruction.spec import ReconstructionSpec, make_spec
from iso3d_jax.views import Views
from iso3d_jax.weights import bundle, hub
from iso3d_jax.weights.folders import find_bundle, model_digest
from iso3d_jax.weights.publishing import push_model


class Pipeline:
    """A model and what it makes of pictures. Made by `from_pretrained`.

    Attributes:
      model: the networks and their config (`weights.bundle.Model`).
      folder: where they were loaded from.
    """

    def __init__(self, model: bundle.Model, folder: str | Path | None = None):
        self.model = model
        self.folder = None if folder is None else Path(folder)
        self._model_id = "" if folder is None else model_digest(folder)
        self._programs: dict[str, dict[str, loop.Programs]] = {}

    @classmethod
    @explain_os_errors()
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        dtype: str | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> Pipeline:
        """Loads a model.

        Args:
          source: a model folder, the folder of a training run, a hub id 'owner/name', or None for
            the small model of the package. A folder comes before a hub id of the same name.
          dtype: of the networks, 'float32' or 'bfloat16'; None is bfloat16 on GPUs and TPUs.
          revision, token: of the hub.

        Raises:
          UserError: no such model, damaged files, or no connection.
        """
        if isinstance(source, str) and hub.is_hub_id(source):
            folder = hub.fetch_model(source, revision=revision, token=token)
        else:
            folder = find_bundle(None if source is None else Path(source).expanduser())
        return cls(bundle.load_model(folder, dtype), folder)

    def on_device(self, device: Any) -> Pipeline:
        """A pipeline of its own with the same weights on one device; used in a thread of its own.

        Args:
          device: of jax; what its thread's `jax.default_device` is to be.
        """
        other = copy.copy(self)
        other.model, other._programs = batch.on_device(self.model, device), {}
        return other

    @explain_os_errors()
    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Writes the model's folder to the hub, with a card; returns the commit's address."""
        if self.folder is None:
            raise UserError("this pipeline was not loaded from a folder: save the model first")
        return push_model(self.folder, repo_id, private=private, token=token)

    @explain_os_errors()
    def views(
        self,
        picture: PictureSource,
        *,
        seed: int = 0,
        num_views: int = 4,
        elevation_deg: float = sampling.ELEVATION_DEG,
        azimuth_deg: float = 0.0,
        look: str = "own",
        steps: int | None = None,
        guidance_scale: float | None = None,
        eta: float | None = None,
        temperature: float | None = None,
        preprocessing: str | None = None,
        remove_background: str = "auto",
        matting_model: str | None = None,
    ) -> Views:
        """Generates views evenly round the object of a picture.

        Args:
          picture: a path, its bytes, a Pillow image, or an array [H, W, 3 or 4].
          preprocessing: how it is fitted to the frame, a name of `data.pictures.MODES`; the model's
            own if None.
          remove_background: 'auto', 'never' or 'always', see `data.background`.
          matting_model: an ONNX file to cut objects out with, in place of the extra's.
          seed, num_views, elevation_deg, azimuth_deg, look, steps, guidance_scale, eta,
            temperature: as of `sampling.sample_views`.

        Raises:
          UserError: a picture that cannot be read or shows no object, or a number out of range.
        """
        sampling.check_options(num_views, elevation_deg, steps)
        _check_preprocessing(preprocessing)
        rgba = load_picture(
            picture, remove_background=remove_background, matting_model=matting_model
        )
        (prepared,) = sampling.prepare_all(self.model, [rgba], preprocessing)
        (images,) = sampling.sample_views(
            self.model, [prepared], num_views=num_views, elevation_deg=elevation_deg,
            azimuth_deg=azimuth_deg, look=look, steps=steps, guidance_scale=guidance_scale,
            eta=eta, temperature=temperature, seed=seed,
        )  # fmt: skip
        azimuths = (azimuth_deg + np.arange(num_views) * 360.0 / num_views) % 360.0
        return Views(
            images, azimuths, np.full(num_views, float(elevation_deg)), rgba, prepared, seed,
            preprocessing or "",
        )  # fmt: skip

    @explain_os_errors()
    def save_input(
        self, picture: PictureSource, path: str | Path, preprocessing: str | None = None, **options
    ) -> Path:
        """Writes a picture as the image encoder will see it, a PNG; returns its path.

        Args:
          picture: as of `views`.
          preprocessing: as of `views`.
          options: remove_background, matting_model, as of `views`.

        Raises:
          UserError: as of `views`, or a path that is none of a PNG.
        """
        path = Path(path).expanduser()
        if path.suffix.lower() != ".png":
            raise UserError(f"{path} does not end in .png: name a PNG to write")
        _check_preprocessing(preprocessing)
        (prepared,) = sampling.prepare_all(
            self.model, [load_picture(picture, **options)], preprocessing
        )
        with atomic_path(path) as temporary:
            grids.to_image(prepared).save(temporary)
        return path

    @explain_os_errors()
    def reconstruct(
        self,
        picture: PictureSource | Views | PosedPictures,
        *,
        preset: str | None = None,
        out: str | Path | None = None,
        seed: int | None = None,
        on_step: run.OnStep | None = None,
        config: ConfigDict | Mapping[str, Any] | None = None,
        init: str | None = None,
        name: str = "",
        command: str = "",
        remove_background: str = "auto",
        matting_model: str | None = None,
    ) -> Reconstruction:
        """Makes a 3D object; the same call goes on where it was stopped, if `out` is given.

        Args:
          picture: as of `views`, or `Views`, which are the first that the object is made from.
            `Views` that are no four evenly round the object at one height, and `PosedPictures`,
            are fitted as they are by `reconstruct_posed`, which asks no model.
          preset: of `presets.reconstruct`: 'isotropic3d', 'fast' or 'tiny', with options as
            'tiny,steps=400'; that which suits the model if None.
          out: folder for mesh.glb, turntable.mp4, index.html and the rest; a temporary one, which
            goes with the result, if None.
          seed: that of the views, or the preset's, if None.
          on_step: called as `on_step(step, total, preview)`, first with the sheet of the views,
            then after every dispatch; `preview` is uint8 [H, W, 3] or None. The run stops where it
            returns False.
          config: a whole config of presets.reconstruct, or values by dotted key that replace the
            preset's, as {'guidance.scale': 7.5}.
          init: 'none', 'views' or the folder of another run; the config's own if None.
          name: what the page calls the picture.
          command: what the page says that it is made by, and goes on with.
          remove_background, matting_model: as of `views`.

        Raises:
          UserError: see `reconstruction.run.reconstruct`.
          Interrupted: Ctrl-C, SIGTERM, or `on_step` returned False; what was done is saved.
        """
        cfg, ring = self._config(preset, config), None
        if isinstance(picture, Views):
            ring = find_ring(picture, cfg.views)
            if ring is None:
                print(
                    f"{len(picture)} views that are no ring about the object: they are fitted with "
                    "their cameras, and the model is not asked"
                )
                spec = make_spec(_make_config(preset or "views", config))
                picture = draft.pose_views(picture, spec)
        if isinstance(picture, PosedPictures):
            return reconstruct_posed(
                picture, preset=preset or "views", out=out, seed=seed, on_step=on_step,
                config=config, name=name, command=command,
            )  # fmt: skip
        given = picture if isinstance(picture, Views) else None
        if given is not None:
            seed = given.seed if seed is None else seed
            cfg.draft.sets = (ring, *tuple(cfg.draft.sets)[1:])
            cfg.picture = given.preprocessing
        if seed is not None:
            cfg.seed = seed
        spec = make_spec(cfg)
        rgba = given.picture if given is not None else load_picture(
            picture,  # pyright: ignore[reportArgumentType]
            remove_background=remove_background, matting_model=matting_model,
        )  # fmt: skip
        folder, keep = _folder(out)
        key = json.dumps([spec.to_dict(), init])
        if key not in self._programs:
            self._programs = {key: {}}  # of the last config alone: programs are large
        result = reconstruct_with_page(
            self.model, rgba, folder, spec, name=name or _file_name(picture),
            command=command, model_id=self._model_id, init=init, views=given, on_step=on_step,
            programs=self._programs[key],
        )  # fmt: skip
        result.keep = keep
        return result

    @explain_os_errors()
    def reconstruct_all(
        self,
        pictures: Mapping[str, str | Path],
        out: str | Path,
        *,
        preset: str | None = None,
        seed: int | None = None,
        config: ConfigDict | Mapping[str, Any] | None = None,
        init: str | None = None,
        command: str = "",
        remove_background: str = "auto",
        matting_model: str | None = None,
    ) -> dict[str, str]:
        """Makes an object of each picture, in `out/NAME`; on several devices one on each at a time.

        What is finished is left as it is, and a picture that fails does not stop the others.

        Args:
          pictures: paths by name, as of `reconstruction.batch.find_pictures`.
          preset, seed, config, init, command, remove_background, matting_model: as of
            `reconstruct`.

        Returns:
          What went wrong, by name.

        Raises:
          Interrupted: stopped; the same call goes on.
        """
        cfg = self._config(preset, config)
        if seed is not None:
            cfg.seed = seed
        spec = make_spec(cfg)
        return batch.reconstruct_all(
            self.model, {name: Path(path) for name, path in pictures.items()}, out, spec,
            model_id=self._model_id, init=cfg.init if init is None else init,
            reconstruct=functools.partial(reconstruct_with_page, command=command),
            load=functools.partial(
                load_picture, remove_background=remove_background, matting_model=matting_model
            ),
        )  # fmt: skip

    def _config(
        self, preset: str | None, config: ConfigDict | Mapping[str, Any] | None
    ) -> ConfigDict:
        """A config of its own, which the caller's is not changed by."""
        return _make_config(preset or presets.preset_for(self.model.config.resolution), config)


@explain_os_errors()
def reconstruct_posed(
    posed: PosedPictures,
    *,
    preset: str = "views",
    out: str | Path | None = None,
    seed: int | None = None,
    on_step: run.OnStep | None = None,
    config: ConfigDict | Mapping[str, Any] | None = None,
    name: str = "",
    command: str = "",
) -> Reconstruction:
    """Makes a 3D object from pictures with cameras; needs no model.

    Cameras are moved so that the object is in the scene, by its visual hull. The same call goes on
    where it was stopped, if `out` is given.

    Args:
      posed: from `data.posed_pictures.load_posed`, or one's own.
      preset, out, seed, on_step, config, name, command: as of `Pipeline.reconstruct`; the mode is
        'views' whatever the config says.

    Raises:
      UserError: cameras without a common point, or as of `reconstruction.run.reconstruct`.
      Interrupted: Ctrl-C, SIGTERM, or `on_step` returned False; what was done is saved.
    """
    cfg = _make_config(preset, config)
    cfg.mode = "views"
    if seed is not None:
        cfg.seed = seed
    spec = make_spec(cfg)
    folder, keep = _folder(out)
    framed, said = fit_to_scene(posed)
    print(f"{len(posed)} pictures of {posed.side}x{posed.side}: {said}")
    name = name or folder.name
    with LivePage(folder, spec, name=name, posed=framed, command=command) as live:
        result = run.fit_pictures(
            framed, folder, spec, framing=said, on_step=live.watch(on_step), on_begin=live.begin
        )
        result.page = write_run_page(folder, picture_name=name, command=command)
    print(f"all of it on one page: {result.page}")
    result.keep = keep
    return result


def _make_config(preset: str, config: ConfigDict | Mapping[str, Any] | None) -> ConfigDict:
    if isinstance(config, ConfigDict):
        return ConfigDict(config.to_dict())
    cfg = presets.get_config(preset)
    for key, value in (config or {}).items():
        _replace(cfg, key, value)
    return cfg


def _folder(out: str | Path | None) -> tuple[Path, tempfile.TemporaryDirectory | None]:
    """The run's folder, and what keeps it where it is a temporary one."""
    if out is not None:
        return Path(out).expanduser(), None
    keep = tempfile.TemporaryDirectory(prefix="iso3d_")
    return Path(keep.name), keep


def reconstruct_with_page(
    model, picture, out, spec: ReconstructionSpec, *, name: str = "", command: str = "",
    init: str | None = None, on_step: run.OnStep | None = None, **options,
) -> Reconstruction:  # fmt: skip
    """`run.reconstruct` with its arguments and index.html, which shows it from its beginning on.

    Args:
      name: what the page calls the picture.
      command: what the page says that it is made by.
    """
    name = name or Path(out).name
    with LivePage(
        out, spec, init=spec.init if init is None else init, name=name, picture=picture,
        command=command,
    ) as live:  # fmt: skip
        result = run.reconstruct(
            model, picture, out, spec, init=init, on_step=live.watch(on_step),
            on_begin=live.begin, **options,
        )  # fmt: skip
        result.page = write_run_page(
            out, picture_name=name, model_name=model.config.name,
            resolution=model.config.resolution, command=command,
        )  # fmt: skip
    print(f"all of it on one page: {result.page}")
    return result


def _check_preprocessing(name: str | None) -> None:
    if name not in (None, *MODES):
        raise UserError(f"preprocessing '{name}': {nearest(str(name), MODES)}")


def _replace(cfg: ConfigDict, key: str, value: Any) -> None:
    """Sets a dotted key of a config, which must be there."""
    *sections, last = key.split(".")
    for section in sections:
        inner = cfg.get(section)
        if not isinstance(inner, ConfigDict):
            raise UserError(f"config has no section '{section}': {nearest(section, cfg)}")
        cfg = inner
    if last not in cfg:
        raise UserError(f"config has no value '{key}': {nearest(last, cfg)}")
    try:
        cfg[last] = value
    except (TypeError, ValueError) as error:
        raise UserError(f"config value '{key}': {error}") from None


def find_ring(views: Views, count: int) -> tuple[float, float] | None:
    """(azimuth of the first, elevation) of views evenly round an object, as a draft takes them.

    None where they are not so many, not evenly round it, or not at one height.
    """
    steps = (views.azimuth_deg - views.azimuth_deg[0]) % 360.0
    even = len(views) == count and np.allclose(steps, np.arange(count) * 360.0 / count, atol=0.1)
    if not even or np.ptp(views.elevation_deg) > 0.1:
        return None
    return float(views.azimuth_deg[0]), float(views.elevation_deg[0])


def _file_name(picture: Any) -> str:
    return Path(picture).name if isinstance(picture, str | Path) else ""
