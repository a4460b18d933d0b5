"""From a model folder of ours to the authors' checkpoint, diffusers' folders, or fewer bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import atomic_path
from iso3d_jax.models.clip import CLIPConfig
from iso3d_jax.models.registry import SECTIONS
from iso3d_jax.weights import bundle, compact
from iso3d_jax.weights.conversion import DTYPES, weight_shapes
from iso3d_jax.weights.layouts import clip, diffusers, ldm
from iso3d_jax.weights.model_spec import ModelSpec
from iso3d_jax.weights.rules import Rule, find, to_theirs
from iso3d_jax.weights.safetensors_file import Entry, Report, reporting, write_safetensors
from iso3d_jax.weights.tensors import LazyTensor, open_tensors
from iso3d_jax.weights.torch_file import write_torch


def export_torch(
    model: str | Path,
    out: str | Path,
    dtype: str = "float32",
    leftovers: str | Path | None = None,
    progress: Report | None = None,
) -> list[str]:
    """Writes the networks that a model folder holds in the authors' layout, with the schedule.

    Args:
      model: a model folder or a training run.
      out: the .ckpt or .pt file.
      dtype: of the weights.
      leftovers: a checkpoint whose keys outside our networks (the text tower's embeddings, which
        the authors' 2-D script insists on) are copied over.
      progress: see `import_weights`.

    Returns:
      Notes on what the authors' code must be told.

    Raises:
      UserError: the authors' code has no such network.
    """
    if Path(out).suffix not in (".ckpt", ".pt", ".pth"):
        raise UserError(f"--out must end in .ckpt or .pt for the torch layout, not {out}")
    config, stored = _open_bundle(model)
    if "clip" in stored and not isinstance(config.network("clip"), CLIPConfig):
        raise UserError("the authors' code has no counterpart of a dense image tower")
    encoding = config.cameras
    if encoding in ("harmonics", "harmonics_lens"):
        raise UserError(f"the authors' code has no counterpart of the camera encoding '{encoding}'")
    entries: list[Entry] = []
    for name, prefix in (
        ("unet", ldm.UNET_PREFIX),
        ("vae", ldm.VAE_PREFIX),
        ("clip", ldm.CLIP_PREFIX),
    ):
        if name in stored:
            numbers = config.network(name)
            _check_fixed(name, numbers, "the authors' layout")
            table = {"unet": ldm.unet, "vae": lambda _: ldm.VAE, "clip": lambda _: clip.OPEN_CLIP}
            entries += _entries(table[name](numbers), stored[name], prefix, dtype)
    for key, value in ldm.schedule_buffers().items():
        entries.append((key, value.shape, value.dtype, lambda value=value: value))
    if leftovers is not None:
        written = {entry[0] for entry in entries}
        for key, tensor in open_tensors(leftovers).items():
            if key not in written:
                entries.append((key, tensor.shape, tensor.dtype, tensor.read))
    sections = (*SECTIONS, "name", "latent_size", "latent_channels", "context_dim")
    known = {key: value for key, value in config.to_dict().items() if key not in sections}
    write_torch(out, reporting(entries, progress), known)
    notes = []
    if config.parameterization == "v":
        notes.append("this model predicts v, and the authors' code reads its output as noise")
    if encoding == "isotropic3d" and config.sampling_cameras == encoding:
        notes.append(
            "its elevations do not drift: sample it with get_camera_cond's cameras, not with the "
            "authors' 2-D script's"
        )
    if encoding == "mvdream" and "unet" in stored:
        notes.append(
            "its cameras have true angles: feed it MVDream's get_camera, not Isotropic3D's"
        )
    return notes


def export_diffusers(
    model: str | Path, out: str | Path, dtype: str = "float32", progress: Report | None = None
) -> list[str]:
    """Writes `unet/`, `vae/`, `image_encoder/` and `scheduler/`, as diffusers' pipelines have them.

    The UNet's 2-D part and the autoencoder are diffusers', the vision tower transformers'.

    Returns:
      Notes on what was left out.
    """
    config, stored = _open_bundle(model)
    jobs, notes = [], []
    if "unet" in stored:
        unet = config.network("unet")
        if unet.adm_in_channels or unet.use_scale_shift_norm:
            raise UserError(
                "diffusers' UNet2DConditionModel has no counterpart of this UNet's "
                "adm_in_channels or use_scale_shift_norm"
            )
        tensors = {k: v for k, v in stored["unet"].items() if not k.startswith("camera_embed/")}
        if len(tensors) < len(stored["unet"]):
            notes.append(
                "the camera's MLP was left out, and with it what cameras it was trained with: "
                "diffusers' UNet has none"
            )
        entries = _entries(diffusers.unet(unet), tensors, "", dtype)
        settings = diffusers.unet_settings(unet, config.latent_size or 32)
        jobs.append(("unet/diffusion_pytorch_model", entries, settings))
    if "vae" in stored:
        vae = config.network("vae")
        _check_fixed("vae", vae, "diffusers' AutoencoderKL", groups=vae.num_groups)
        if vae.embed_dim != vae.z_channels:
            raise UserError("diffusers' AutoencoderKL has no embed_dim other than z_channels")
        entries = _entries(diffusers.vae(vae), stored["vae"], "", dtype)
        settings = diffusers.vae_settings(vae, config.scale_factor or 0.18215)
        jobs.append(("vae/diffusion_pytorch_model", entries, settings))
    tower = config.network("clip") if "clip" in stored else None
    if isinstance(tower, CLIPConfig):
        entries = _entries(clip.TRANSFORMERS, stored["clip"], "", dtype)
        jobs.append(("image_encoder/model", entries, clip.transformers_settings(tower)))
    elif tower is not None:
        notes.append("the image tower was left out: transformers has none of its kind")
    if not jobs:
        raise UserError(
            f"{model} has no UNet, no autoencoder and no CLIP vision tower, so nothing to write"
        )
    for name, entries, settings in jobs:
        path = Path(out) / f"{name}.safetensors"
        write_safetensors(path, reporting(entries, progress), {"format": "pt"})
        _write_json(path.with_name("config.json"), settings)
    scheduler = diffusers.scheduler_settings(config.parameterization or "eps")
    _write_json(Path(out) / "scheduler/scheduler_config.json", scheduler)
    return notes


def export_compact(model: str | Path, out: str | Path) -> list[str]:
    """Writes a model folder or training run with a byte a weight; see `compact.py`.

    Returns:
      Notes for the user.
    """
    source, folder = bundle.find_bundle(model), Path(out)
    if folder.resolve() == source.resolve():
        raise UserError(f"--out {out} is the model itself: name another folder")
    config = bundle.load_config(source)
    weights = bundle.load_weights(source, tuple(SECTIONS))
    weights = {name: params for name, params in weights.items() if params}
    bundle.save_bundle(folder, config, weights, dtype=jnp.int8)
    before, after = ((path / "model.safetensors").stat().st_size for path in (source, folder))
    return [f"{', '.join(weights)}: {before / 1e6:.1f} MB became {after / 1e6:.1f} MB"]


def _write_json(path: Path, content: Mapping) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _open_bundle(model: str | Path) -> tuple[ModelSpec, dict[str, dict[str, LazyTensor]]]:
    """A folder's config and its weights by network, checked against the config."""
    folder = bundle.find_bundle(model)
    config = bundle.load_config(folder)
    stored: dict[str, dict[str, LazyTensor]] = {}
    for key, tensor in open_tensors(folder / "model.safetensors").items():
        if key.endswith(compact.SCALE):
            raise UserError(
                f"{folder} holds a byte a weight: convert the model that it was made from"
            )
        name, _, path = key.partition("/")
        stored.setdefault(name, {})[path] = tensor
    for name, tensors in stored.items():
        if name not in SECTIONS:
            raise UserError(f"{folder} has weights of an unknown network, '{name}'")
        shapes = weight_shapes(name, config.network(name))
        if shapes != {path: tensor.shape for path, tensor in tensors.items()}:
            raise UserError(f"the weights of '{name}' in {folder} do not fit its model.json")
    return config, stored


def _check_fixed(name: str, numbers, layout: str, groups: int = 32) -> None:
    """Refuses what only our own small models have."""
    if getattr(numbers, "patch", 1) != 1:
        raise UserError(f"{layout} has no autoencoder with a patch of {numbers.patch}")
    if getattr(numbers, "num_groups", 32) != groups:
        raise UserError(
            f"{layout} has 32 groups in every GroupNorm, and this {name} has {numbers.num_groups}"
        )


def _entries(
    table: list[Rule] | tuple[Rule, ...], tensors: Mapping[str, LazyTensor], prefix: str, dtype: str
) -> list[Entry]:
    """What a writer needs of one network, under its keys in the other layout."""
    kind, entries = DTYPES[dtype], []
    for path, tensor in tensors.items():
        match = find(table, path)
        if match is None:
            raise UserError(f"the layout has no place for the weight {path}")
        blank = np.broadcast_to(np.int8(0), tensor.shape)
        for number, (key, like) in enumerate(
            zip(match.keys, to_theirs(blank, path, match), strict=True)
        ):

            def read(path=path, tensor=tensor, match=match, number=number):
                array = to_theirs(tensor.read(), path, match)[number]
                return np.asarray(array, order="C").astype(kind, copy=False)

            entries.append((prefix + key, like.shape, kind, read))
    return entries
