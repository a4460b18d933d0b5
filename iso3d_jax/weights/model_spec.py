"""What a model is beside its weights, as a frozen dataclass: model.json, or a config's `model`.

`weights/facts.py` says what each fact means and what it may be.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, overload

from iso3d_jax.core import specs
from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.geometry.cameras import ENCODINGS
from iso3d_jax.models import registry
from iso3d_jax.models.registry import SECTIONS
from iso3d_jax.models.unet import UNetConfig
from iso3d_jax.weights import facts


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Facts of a model and the numbers of its networks. It can be hashed.

    A fact that is "", 0 or None is not known: nobody said it, or a training leaves it to its base.

    Attributes:
      vae, clip: `VAEConfig` and `CLIPConfig`, or what a package beside the method registered.
      unknown: entries that this version has no use for, with their JSON; written back as they were.
      written: the entries that the file or the config had, those of networks as 'unet.in_channels';
        these are written back even where their value is what it would be without them.
    """

    name: str = ""
    resolution: int = 0
    latent_size: int = 0
    latent_channels: int = 0
    scale_factor: float = 0.0
    parameterization: str = ""
    base_parameterization: str = ""
    camera_encoding: str = ""
    sampling_camera_encoding: str = ""
    base_camera_encoding: str = ""
    camera_range: str = ""
    picture: str = ""
    context_dim: int = 0
    guidance_scale: float | None = None
    eta: float | None = None
    temperature: float | None = None
    steps: int | None = None
    spacing: str | None = None
    unet: UNetConfig | None = None
    vae: Any = None
    clip: Any = None
    unknown: tuple[tuple[str, str], ...] = ()
    written: frozenset[str] = dataclasses.field(default=frozenset(), repr=False)

    def __post_init__(self):
        for name in SECTIONS:
            numbers = getattr(self, name)
            if numbers is not None:
                facts.check_numbers(type(numbers), vars(numbers), f"the model's section '{name}'")

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """From what model.json holds, or a training config's `model` as plain values.

        Raises:
          UserError: numbers of a network that are no sizes, or that it does not know.
        """
        known, unknown, written = {}, [], set()
        for key, value in values.items():
            if key not in _ENTRIES:
                unknown.append((key, json.dumps(value, sort_keys=True)))
                continue
            written.add(key)
            if key in SECTIONS and value is not None:
                written |= {f"{key}.{entry}" for entry in value}
                value = _read_network(key, value)
            known[key] = value
        return cls(**known, unknown=tuple(sorted(unknown)), written=frozenset(written))

    def to_dict(self) -> dict[str, Any]:
        """As model.json holds it, keys in order: what was read, and what is known beyond that."""
        values = {key: json.loads(text) for key, text in self.unknown}
        for name in _ENTRIES:
            value = getattr(self, name)
            if name in SECTIONS and value is not None:
                values[name] = {
                    field.name: getattr(value, field.name)
                    for field in dataclasses.fields(value)
                    if f"{name}.{field.name}" in self.written
                    or getattr(value, field.name) != field.default
                }
            elif name in self.written or self.has(name):
                values[name] = value
        return specs.in_order(values)

    def has(self, name: str) -> bool:
        """Whether a fact or a network is known."""
        return getattr(self, name) not in (None, _ENTRIES[name])

    def take(self, other: ModelSpec, *names: str) -> Self:
        """With these entries as another has them; what that does not know is left as it is."""
        names = tuple(name for name in names if other.has(name))
        kept = {entry for entry in self.written if entry.partition(".")[0] not in names}
        taken = {entry for entry in other.written if entry.partition(".")[0] in names}
        values: dict[str, Any] = {name: getattr(other, name) for name in names}
        return dataclasses.replace(self, written=frozenset(kept | taken), **values)

    def without(self, name: str) -> Self:
        """As if nobody had said a fact."""
        values: dict[str, Any] = {name: _ENTRIES[name]}
        return dataclasses.replace(self, written=self.written - {name}, **values)

    @overload
    def network(self, name: Literal["unet"]) -> UNetConfig: ...
    @overload
    def network(self, name: str) -> Any: ...
    def network(self, name: str) -> Any:
        """A network's numbers; UserError where the model has no such network."""
        numbers = getattr(self, name) if name in SECTIONS else None
        if numbers is None:
            raise UserError(f"the model's config has no section '{name}'")
        return numbers

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """A view's latents, [h, w, C]."""
        return self.latent_size, self.latent_size, self.latent_channels

    @property
    def cameras(self) -> str:
        """What the network is told of cameras where it is used as it was trained.

        Raises:
          UserError: `camera_encoding` is none that a network can be trained with.
        """
        return self._check_name("camera_encoding", facts.TRAINED_WITH) or facts.TRUE_ANGLES

    @property
    def sampling_cameras(self) -> str:
        """What the network is told of cameras where views are sampled.

        Raises:
          UserError: `sampling_camera_encoding` is no name of an encoding.
        """
        return self._check_name("sampling_camera_encoding", ENCODINGS) or self.cameras

    def _check_name(self, key: str, names: tuple[str, ...]) -> str:
        value = getattr(self, key)
        if value and value not in names:
            raise UserError(f"the model's {key} is '{value}', which is none of {', '.join(names)}")
        return value


# The entries of model.json that have a meaning, with what they are where nobody says them.
_ENTRIES = {
    field.name: field.default
    for field in dataclasses.fields(ModelSpec)
    if field.name not in ("unknown", "written")
}


def _read_network(name: str, section: Mapping[str, Any]) -> Any:
    """A network's section as its dataclass; lists become tuples."""
    kind = registry.find(name, section).config
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in section.items()}
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - known):
        said = shorten(", ".join(unknown))
        raise UserError(f"the model's section '{name}' has unknown entries: {said}")
    return kind(**values)
