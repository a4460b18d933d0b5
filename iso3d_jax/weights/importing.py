"""From other programs' weights to a model folder of ours, streamed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.files import atomic_path
from iso3d_jax.core.json_files import need
from iso3d_jax.geometry.cameras import ENCODINGS
from iso3d_jax.models.registry import SECTIONS
from iso3d_jax.weights import facts
from iso3d_jax.weights.conversion import DTYPES, Part, find_parts
from iso3d_jax.weights.model_spec import ModelSpec
from iso3d_jax.weights.safetensors_file import Report, reporting, write_safetensors
from iso3d_jax.weights.sources import Source, open_sources
from iso3d_jax.weights.tensors import SUFFIXES
from iso3d_jax.weights.trainer_keys import clean_keys

# What a model of each layout must know beside its weights (isotropic/configs). A 2-D base has
# no cameras yet, so nothing is said of them.
RELEASED = dict(
    resolution=256, scale_factor=0.18215, parameterization="eps", picture="launch",
    guidance_scale=10.0, eta=1.0,
)  # fmt: skip
BY_LAYOUT = {
    "isotropic3d": dict(
        RELEASED, camera_encoding="isotropic3d", sampling_camera_encoding="isotropic3d_sampling"
    ),
    "mvdream": dict(RELEASED, camera_encoding="mvdream", eta=0.0),
}
SETTINGS = ("name", *RELEASED, "camera_encoding", "sampling_camera_encoding")
# What our own files say of themselves (`exporting.export_torch`), in place of the layout's.
OWN_WORD = tuple(
    dict.fromkeys((*SETTINGS[1:], *facts.CAMERAS, *facts.SAMPLING, "base_parameterization"))
)
SCHEDULER = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v"}


def import_weights(
    places: Sequence[str],
    out: str | Path,
    arch: Mapping | None = None,
    dtype: str = "float32",
    progress: Report | None = None,
) -> ModelSpec:
    """Converts one or several sources into one model folder.

    Args:
      places: paths or hub ids; together they hold each network once at most.
      out: folder for model.json and model.safetensors.
      arch: what shapes do not tell: {"unet": {...}, "vae": {...}, "clip": {...}} and any of
        `SETTINGS` at the top.
      dtype: 'float32' or 'bfloat16', as stored; the camera's MLP is always float32.
      progress: called with (bytes done, bytes in all, key) before each weight.

    Returns:
      What the model's folder says of it.

    Raises:
      UserError: sources that cannot be read, recognised or matched.
    """
    arch = _check_arch(arch or {})
    parts: dict[str, Part] = {}
    settings: dict = dict(RELEASED)
    for place in places:
        for source in open_sources(place):
            own, known = _beside(source)
            layout, found = find_parts(source.tensors, _merge(known, arch), source.path.name)
            if source.facts:
                facts.check(source.facts, source.path)
                settings |= {key: source.facts[key] for key in OWN_WORD if key in source.facts}
            else:
                settings |= BY_LAYOUT.get(layout, {}) | own
                if "v_pred" in clean_keys(source.tensors, source.path.name).markers:
                    settings["parameterization"] = "v"
            for part in found:
                if part.network in parts:
                    raise UserError(f"{place} has a second {part.network}: give one of each")
                parts[part.network] = part
    config = _config(parts, settings, arch, _name(places[0]))
    entries = [e for name in sorted(parts) for e in parts[name].entries(DTYPES[dtype])]
    write_safetensors(Path(out) / "model.safetensors", reporting(entries, progress))
    with atomic_path(Path(out) / "model.json") as temporary:
        temporary.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    return config


def _name(place: str) -> str:
    path = Path(place)
    return (path.stem if path.suffix in SUFFIXES else path.name) or "model"


def _check_arch(arch: Mapping) -> Mapping:
    if unknown := sorted(set(arch) - set(SETTINGS) - set(SECTIONS)):
        known = ", ".join([*SECTIONS, *SETTINGS])
        raise UserError(
            f"--arch has unknown entries: {shorten(', '.join(unknown))} (known: {known})"
        )
    if any(not isinstance(arch.get(name, {}), Mapping) for name in SECTIONS):
        raise UserError("--arch: unet, vae and clip are objects of numbers")
    for name in SECTIONS:
        for key, value in arch.get(name, {}).items():
            values = value if isinstance(value, list | tuple) else [value]
            if not all(_is_number(v) for v in values):
                raise UserError(f"--arch: {name}.{shorten(key, 60)} is no number")
    theirs = ENCODINGS[:3]  # other programs'
    for key, known in (("camera_encoding", theirs[:2]), ("sampling_camera_encoding", theirs)):
        if arch.get(key, known[0]) not in known:
            raise UserError(f"--arch: {key} is one of {', '.join(known)}")
    facts.check(arch, "--arch")
    return arch


def _is_number(value) -> bool:
    return isinstance(value, int | float) and abs(value) < 1 << 31


def _merge(known: Mapping, arch: Mapping) -> dict:
    """The user's word over the source's own files."""
    return {n: dict(known.get(n, {})) | dict(arch.get(n, {})) for n in SECTIONS}


def _beside(source: Source) -> tuple[dict, dict]:
    """(settings, numbers by network) that the JSON files beside the weights tell."""
    config, settings, known = source.config, {}, {}
    where = source.path.with_name("config.json")
    kind = need(config, "_class_name", str, where, default="") or " ".join(
        map(str, need(config, "architectures", list, where, default=[]))
    )
    groups = need(config, "norm_num_groups", int, where, default=32, least=1, most=1 << 16)
    if kind == "UNet2DConditionModel":
        known["unet"] = {"num_groups": groups}
        if head := _head_width(config, where):
            known["unet"]["num_head_channels"] = head
        if type(config.get("sample_size")) is int:  # a pair is of no square pictures
            settings["latent_size"] = need(config, "sample_size", int, where, least=1, most=4096)
        settings["parameterization"] = _parameterization(source)
        _only_activation(config, "act_fn", ("silu", "swish"), where)
    elif kind == "AutoencoderKL":
        known["vae"] = {"num_groups": groups}
        settings["scale_factor"] = need(
            config, "scaling_factor", float, where, default=RELEASED["scale_factor"],
            least=1e-6, most=1e6,
        )  # fmt: skip
        if config.get("shift_factor"):
            raise UserError(f"{source.path}: an autoencoder with a shift_factor is not known here")
        _only_activation(config, "act_fn", ("silu", "swish"), where)
    elif "CLIP" in kind:
        vision = need(config, "vision_config", dict, where, default=config)
        _only_activation(vision, "hidden_act", ("gelu",), where)
        if heads := need(
            vision, "num_attention_heads", int, where, default=0, least=0, most=1 << 16
        ):
            known["clip"] = {"heads": heads}
    return settings, known


def _only_activation(config: Mapping, key: str, known: tuple[str, ...], where: Path) -> None:
    """Refuses a network whose activation is another than ours, which no weight would show."""
    value = need(config, key, str, where, default=known[0])
    if value not in known:
        raise UserError(
            f"{where}: its activation is '{shorten(value, 60)}', and only {known[0]} is known here "
            f"({key}; of vision towers the exact gelu of OpenCLIP's ViT-H)"
        )


def _parameterization(source: Source) -> str:
    """From diffusers' scheduler, whose betas must be Stable Diffusion's."""
    scheduler = source.scheduler
    for key, value in SCHEDULER.items():
        if scheduler.get(key, value) != value:
            raise UserError(
                f"{source.path}: its scheduler has {key} {shorten(scheduler[key], 60)}, not {value}"
            )
    kind = scheduler.get("prediction_type", "epsilon")
    if not isinstance(kind, str) or kind not in PREDICTIONS:
        raise UserError(
            f"{source.path}: its scheduler predicts '{shorten(kind, 60)}', not noise or v"
        )
    return PREDICTIONS[kind]


def _head_width(config: Mapping, where: Path) -> int | None:
    """diffusers' `attention_head_dim` is the number of heads, one or one a level."""
    heads = config.get("num_attention_heads") or config.get("attention_head_dim")
    channels = need(config, "block_out_channels", list, where, default=[])
    if not heads or not channels:
        return None
    heads = heads if isinstance(heads, list) else [heads] * len(channels)
    types = need(config, "down_block_types", list, where, default=["CrossAttn"] * len(channels))
    if not all(type(n) is int and n > 0 for n in (*heads, *channels)) or not (
        len(heads) == len(channels) == len(types)
    ):
        raise UserError(f"{where} is damaged: its widths, heads and blocks do not fit each other")
    widths = {
        c // h for c, h, t in zip(channels, heads, types, strict=True) if "CrossAttn" in str(t)
    }
    if len(widths) > 1:
        raise UserError(
            f"{where}: its attention heads have several widths ({shorten(sorted(widths))}), as in "
            "Stable Diffusion 1; Stable Diffusion 2's have one"
        )
    return widths.pop() if widths else None


def _config(parts: Mapping[str, Part], settings: Mapping, arch: Mapping, name: str) -> ModelSpec:
    """model.json's content; sections for the networks that are there."""
    values = {"name": name} | dict(settings)
    if arch.get("camera_encoding") not in (None, values.get("camera_encoding")):
        values.pop("sampling_camera_encoding", None)  # it is not the layout's own file
    values |= {k: arch[k] for k in SETTINGS if k in arch}
    sections = {n: dataclasses.asdict(part.config) for n, part in parts.items()}
    if "vae" in sections:
        factor = 2 ** (len(sections["vae"]["ch_mult"]) - 1) * sections["vae"]["patch"]
        latent = arch.get("unet", {}).get("image_size", settings.get("latent_size"))
        if latent and "resolution" not in arch:
            values["resolution"] = latent * factor
        values |= dict(
            latent_size=values["resolution"] // factor,
            latent_channels=sections["vae"]["embed_dim"],
        )
    if "unet" in sections:
        values["context_dim"] = sections["unet"]["context_dim"]
        if "vae" in sections and sections["unet"]["in_channels"] != values["latent_channels"]:
            raise UserError(
                f"the UNet takes {sections['unet']['in_channels']} channels, but the autoencoder's "
                f"latents have {values['latent_channels']}"
            )
        if "clip" in sections and sections["clip"]["output_dim"] != values["context_dim"]:
            raise UserError(
                f"the UNet takes embeddings of {values['context_dim']}, but the vision tower's "
                f"have {sections['clip']['output_dim']}"
            )
    return ModelSpec.read(values | sections)
