"""Weights of other programs as networks of ours: recognised, matched, streamed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.models.unet import UNetConfig
from iso3d_jax.models.vae import VAEConfig
from iso3d_jax.weights import architecture, bundle
from iso3d_jax.weights.layouts import clip, diffusers, ldm
from iso3d_jax.weights.model_spec import ModelSpec
from iso3d_jax.weights.rules import Match, Table, find, plan, to_ours
from iso3d_jax.weights.safetensors_file import Entry
from iso3d_jax.weights.tensors import LazyTensor
from iso3d_jax.weights.trainer_keys import clean_keys

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
Tensors = Mapping[str, LazyTensor]


@dataclass
class Part:
    """One network in a source: where each of its weights comes from.

    `matches` has no entry for weights that the source lacks and `made` holds instead.
    """

    network: str
    config: Any
    shapes: dict[str, tuple[int, ...]]
    tensors: Tensors
    matches: dict[str, Match]
    made: dict[str, np.ndarray]

    def entries(self, dtype: np.dtype) -> list[Entry]:
        """What a writer needs, in our order; the camera's MLP stays float32."""

        def entry(path):
            kind = np.dtype(bundle.param_dtype_for(path, dtype))
            return (
                f"{self.network}/{path}",
                self.shapes[path],
                kind,
                lambda: np.asarray(self.read(path), order="C").astype(kind, copy=False),
            )

        return [entry(path) for path in sorted(self.shapes)]

    def read(self, path: str) -> np.ndarray:
        """One weight, in the source's type."""
        if path in self.made:
            return self.made[path]
        keys, form = self.matches[path]
        arrays = [self.tensors[key].read() for key in keys]
        return to_ours(arrays, path, form, len(self.shapes[path]))


def find_parts(tensors: Tensors, arch: Mapping, what: str) -> tuple[str, list[Part]]:
    """Recognises a file's layout and matches all of its keys.

    Args:
      tensors: all keys of a file (or of its shards).
      arch: numbers that shapes do not tell, by network.
      what: the file's name, for the messages.

    Returns:
      The layout's name, 'isotropic3d', 'mvdream', 'ldm', 'diffusers', 'open_clip' or
      'transformers', and the networks in it.

    Raises:
      UserError: unknown layout, or keys and weights that do not pair off.
    """
    tensors = clean_keys(tensors, what).tensors

    def has(prefix):
        return any(key.startswith(prefix) for key in tensors)

    if has(ldm.UNET_PREFIX) or has(ldm.VAE_PREFIX):
        return _ldm_parts(tensors, arch, what)
    if any(".lora_down." in key or ".lora_A." in key for key in tensors):
        raise UserError(
            f"{what} holds a LoRA, which is what changes in weights and no weights: merge it into "
            "its model first"
        )
    if has("down_blocks.0.resnets.") and "conv_in.weight" in tensors:
        return "diffusers", [_unet(tensors, diffusers.unet, diffusers.count_unet, arch, (), what)]
    if has("encoder.down_blocks."):
        tensors = {diffusers.modern_name(key): tensor for key, tensor in tensors.items()}
        return "diffusers", [_vae(tensors, diffusers.vae, diffusers.count_vae, arch, what)]
    if has("vision_model.embeddings."):
        return "transformers", [
            _clip(tensors, clip.TRANSFORMERS, arch, clip.TRANSFORMERS_LEFTOVERS, what)
        ]
    if has(clip.OPEN_CLIP_PREFIX):
        inner, rest = _take(tensors, clip.OPEN_CLIP_PREFIX)
        _all_known(rest, clip.OPEN_CLIP_LEFTOVERS, what)
        return "open_clip", [_clip(inner, clip.OPEN_CLIP, arch, (), what)]
    example = next(iter(tensors), "nothing")
    raise UserError(
        f"{what} has no layout that is known here (its first key is '{shorten(example)}'): "
        "known are Isotropic3D's, MVDream's and Stable Diffusion's checkpoints, diffusers' UNet "
        "and autoencoder, and the vision tower of open_clip or transformers"
    )


def _ldm_parts(tensors: Tensors, arch: Mapping, what: str) -> tuple[str, list[Part]]:
    unet, rest = _take(tensors, ldm.UNET_PREFIX)
    vae, rest = _take(rest, ldm.VAE_PREFIX)
    tower, rest = _take(rest, ldm.CLIP_PREFIX)
    rest = _check_schedule(rest, what)
    # The loss networks beside the autoencoder.
    loss = {key: tensor for key, tensor in vae.items() if key.startswith("loss.")}
    vae = {key: tensor for key, tensor in vae.items() if key not in loss}
    _all_known(rest, ldm.LEFTOVERS, what)
    parts = []
    if unet:
        parts.append(_unet(unet, ldm.unet, ldm.count_unet, arch, (), what))
    if vae:
        parts.append(_vae(vae, lambda config: ldm.VAE, None, arch, what))
    if tower:
        parts.append(_clip(tower, clip.OPEN_CLIP, arch, (), what))
    camera = "camera_embed.0.weight" in unet
    return ("isotropic3d" if tower else "mvdream") if camera else "ldm", parts


def _take(tensors: Tensors, prefix: str) -> tuple[dict, dict]:
    """Keys with a prefix, without it; and the other keys."""
    inner = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return inner, {k: v for k, v in tensors.items() if not k.startswith(prefix)}


def _all_known(tensors: Tensors, leftovers: Iterable[str], what: str) -> None:
    plan((), {}, {key: tensor.shape for key, tensor in tensors.items()}, leftovers, what)


def _check_schedule(tensors: Tensors, what: str) -> Tensors:
    """Takes the schedule's buffers out; they must be the schedule that we compute."""
    expected = ldm.schedule_buffers()
    for key in expected.keys() & tensors.keys():
        value = tensors[key].read().astype(np.float32)
        if value.shape != expected[key].shape or not np.allclose(value, expected[key], rtol=1e-3):
            raise UserError(f"{what} has another noise schedule than Stable Diffusion: '{key}'")
    return {key: tensor for key, tensor in tensors.items() if key not in expected}


def _shape_reader(table: Table, tensors: Tensors, ndims: Mapping[str, int] | None = None):
    """Shapes of our weights as a source has them, by our path."""

    def shape_of(path):
        match = find(table, path)
        if match is None or any(key not in tensors for key in match.keys):
            return None
        blanks = [np.broadcast_to(np.int8(0), tensors[key].shape) for key in match.keys]
        return to_ours(blanks, path, match.form, blanks[0].ndim).shape

    return shape_of


def _unet(tensors, table_of, count, arch, leftovers, what) -> Part:
    levels, blocks = count(tensors)
    draft = table_of(UNetConfig(channel_mult=(1,) * levels, num_res_blocks=blocks))
    given = dict(arch.get("unet", {}))
    camera_dim = int(given.pop("camera_dim", 16))
    config = architecture.read_unet(_shape_reader(draft, tensors), levels, blocks, given)
    made = {}
    if not config.camera_dim and camera_dim:
        config = dataclasses.replace(config, camera_dim=camera_dim)
        made = _silent_camera(camera_dim, 4 * config.model_channels)
    elif config.camera_dim and "camera_dim" in arch.get("unet", {}) and (
        camera_dim != config.camera_dim
    ):  # fmt: skip
        raise UserError(
            f"--arch: unet.camera_dim is {camera_dim}, but the weights' shapes say "
            f"{config.camera_dim}"
        )
    return _match("unet", config, table_of(config), tensors, leftovers, made, what)


def _silent_camera(camera_dim: int, dim: int) -> dict[str, np.ndarray]:
    """A camera MLP whose output is zero and whose gradient is not: a 2-D UNet with it is itself."""
    draw = np.random.default_rng(0).standard_normal((camera_dim, dim))
    values = {
        "camera_embed/linear_in/kernel": draw / np.sqrt(camera_dim),
        "camera_embed/linear_in/bias": np.zeros(dim),
        "camera_embed/linear_out/kernel": np.zeros((dim, dim)),
        "camera_embed/linear_out/bias": np.zeros(dim),
    }
    return {path: value.astype(np.float32) for path, value in values.items()}


def _vae(tensors, table_of, count, arch, what) -> Part:
    levels = count(tensors) if count else 1
    draft = table_of(VAEConfig(ch_mult=(1,) * levels, num_res_blocks=8))
    config = architecture.read_vae(_shape_reader(draft, tensors), arch.get("vae", {}))
    return _match("vae", config, table_of(config), tensors, (), {}, what)


def _clip(tensors, table, arch, leftovers, what) -> Part:
    config = architecture.read_clip(_shape_reader(table, tensors), arch.get("clip", {}))
    return _match("clip", config, table, tensors, leftovers, {}, what)


@functools.cache
def weight_shapes(network: str, config) -> dict[str, tuple[int, ...]]:
    """Shapes of a network's weights by path; `config` is its dataclass."""
    sections: dict[str, Any] = {network: config}
    shapes = bundle.abstract_network(network, ModelSpec(**sections))[1]
    return {k: v.shape for k, v in shapes.items()}


def _match(network, config, table, tensors, leftovers, made, what) -> Part:
    shapes = weight_shapes(network, config)
    wanted = {path: shape for path, shape in shapes.items() if path not in made}
    sizes = {key: tensor.shape for key, tensor in tensors.items()}
    names = {"unet": "the UNet", "vae": "the autoencoder", "clip": "the vision tower"}
    matches = plan(table, wanted, sizes, leftovers, f"{names[network]} of {what}")
    return Part(network, config, shapes, tensors, matches, made)
