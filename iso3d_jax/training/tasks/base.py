"""What a run has from the model that it starts from, and where it goes its own way.

A base works with the cameras, the prediction and the attention heads that it was trained with, and
no shape of its weights tells them. So an empty value of the config means the base's own, what is
used is settled here once, before batches are made, and a run that changes it says so.
"""

from __future__ import annotations

import dataclasses

import jax

from iso3d_jax.training.spec import InitSpec, Spec, StageSpec
from iso3d_jax.weights import bundle, facts
from iso3d_jax.weights.architecture import NOT_IN_SHAPES
from iso3d_jax.weights.model_spec import ModelSpec

# What "" means without a base, or with one that does not say.
DEFAULTS = dict(camera_encoding=facts.TRUE_ANGLES, parameterization="eps", picture="launch")
NAMES = dict(camera_encoding="cameras", parameterization="prediction")


@dataclasses.dataclass(frozen=True)
class Inheritance:
    """What `settle` found.

    Attributes:
      summary: cameras and prediction of the run and whose they are, for its first line.
      changes: a line for each fact in which the run departs from its base.
      records: what the run's model.json says of that.
    """

    summary: str
    changes: tuple[str, ...] = ()
    records: dict[str, str] = dataclasses.field(default_factory=dict)

    def announce(self, label: str) -> None:
        """Prints the changes, a line each, in the first process."""
        if jax.process_index() == 0:
            for line in self.changes:
                print(f"{label}: {line}", flush=True)


def settle(cfg: Spec, *, read: bool = True) -> tuple[Spec, Inheritance]:
    """A spec in which what `cfg.model` leaves to the base is filled in; twice is as once.

    Camera encoding, prediction, preparation of pictures and the numbers of sampling are the base's
    where the spec leaves them empty ("" or None). Numbers of the UNet that no shape tells are the
    base's in any case: with others its weights are another function.

    Args:
      cfg: of a training.
      read: whether `init_from` is looked at; a compilation for other machines does not, since
        nothing of this changes a program's size.

    Raises:
      UserError: `init_from` or `init.drawing` is no model folder.
    """
    source = cfg.init_from if read else ""
    base = bundle.load_config(source) if source else ModelSpec()
    chosen, changes, records, words = {}, [], {}, []
    for key, default in DEFAULTS.items():
        mine, theirs = getattr(cfg.model, key), getattr(base, key)
        chosen[key] = value = mine or theirs or default
        if key not in NAMES:
            continue
        whose = "the base's" if theirs else "no base says another"
        if theirs and theirs != value:
            whose = f"the base had {theirs}"
            records[f"base_{key}"] = theirs
            changes.append(
                f"{NAMES[key]} {value}, but the base {source} was trained with {theirs}: it has to "
                f"learn anew; --config.model.{key}={theirs} keeps what it has"
            )
        words.append(f"{NAMES[key]} {value} ({whose})")
    model = dataclasses.replace(cfg.model, **chosen)
    for key in facts.SAMPLING:
        if not model.has(key):
            model = model.without(key).take(base, key)
    if base.has("unet"):
        model, taken = _take_heads(model, base, source)
        changes += taken
    init = cfg.init if isinstance(cfg, StageSpec) else None
    changes += _other_latents(model, base, source, init)
    drawing = init.drawing if init is not None and read else ""
    if drawing:
        theirs = bundle.load_config(drawing).cameras
        if theirs != model.camera_encoding:
            changes.append(
                f"cameras {model.camera_encoding}, but the drawing decoder of {drawing} was "
                f"trained with {theirs}; --config.model.camera_encoding={theirs} keeps it"
            )
    settled = dataclasses.replace(cfg, model=model)
    return settled, Inheritance(", ".join(words), tuple(changes), records)


def _take_heads(model: ModelSpec, base: ModelSpec, source: str) -> tuple[ModelSpec, list[str]]:
    """The model with the numbers of its base's UNet that no shape tells; what that changed."""
    mine, theirs = model.network("unet"), base.network("unet")
    numbers = {key: getattr(theirs, key) for key in NOT_IN_SHAPES["unet"]}
    changes = [
        f"unet.{key} is {number}, as of the base {source}, not {getattr(mine, key)}"
        for key, number in numbers.items()
        if getattr(mine, key) != number
    ]
    return dataclasses.replace(model, unet=dataclasses.replace(mine, **numbers)), changes


def _other_latents(
    model: ModelSpec, base: ModelSpec, source: str, init: InitSpec | None
) -> list[str]:
    """Where the run's latents are not what the base saw."""
    changes = []
    if not base.has("unet"):
        return changes
    if base.has("resolution") and base.resolution != model.resolution:
        changes.append(
            f"pictures of {model.resolution} pixels, but the base {source} is of {base.resolution}"
        )
    if init is not None:
        vae = bundle.load_config(init.vae or None)
        known = vae.has("scale_factor") and base.has("scale_factor")
        if known and base.scale_factor != vae.scale_factor:
            changes.append(
                f"latents scaled by {vae.scale_factor:g} as the autoencoder says, but the base "
                f"{source} was trained with {base.scale_factor:g}"
            )
    return changes
