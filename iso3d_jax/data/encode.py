"""Encodes a data set once with the frozen autoencoder and image tower.

    python -m iso3d_jax.data.encode --data DIR --vae DIR --clip DIR --out DIR --variants 4

The denoiser is then trained on latents and embeddings alone. Each variant is the whole set with
its own colours (variant 0 has the objects' own), once as it is and once mirrored.
Several data sets of as many views, with commas, become one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from iso3d_jax.commands import command_line
from iso3d_jax.commands.config_checks import SPLITS
from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.files import atomic_path, check_folder
from iso3d_jax.core.json_files import need, read_object
from iso3d_jax.core.progress import Progress
from iso3d_jax.data.colour import change_colours, on_white
from iso3d_jax.data.pictures import MODES
from iso3d_jax.data.table import MultiViewTable, join, mix_references
from iso3d_jax.models.vae import encode_pictures

flags = command_line.flags_for(__name__)

_ARRAYS = ("moments", "embedding", "mirrored", "azimuth_deg", "elevation_deg")


@dataclasses.dataclass
class EncodedTable:
    """Latent moments and embeddings of A variants of all M views of N objects.

    `names` are the objects'; sets that were encoded before names were kept have none.
    """

    moments: Float[np.ndarray, "A N M h w D2"]
    embedding: Float[np.ndarray, "A N M D"]
    mirrored: Bool[np.ndarray, " A"]
    azimuth_deg: Float[np.ndarray, "N M"]
    elevation_deg: Float[np.ndarray, "N M"]
    names: list[str] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return self.moments.shape[1]

    @property
    def num_views(self) -> int:
        return self.moments.shape[2]

    def name(self, index: int) -> str:
        """An object's name, or its number where the set has no names."""
        return self.names[index] if self.names else f"object {index}"

    def record(self, index: int) -> EncodedObject:
        """One object; from a set on disk nothing but what is asked of it is read."""
        return EncodedObject(self, index)

    def save(self, folder: str | Path) -> None:
        folder = Path(folder)
        for name in _ARRAYS:
            with atomic_path(folder / f"{name}.npy") as temporary:
                np.save(temporary, getattr(self, name))
        with atomic_path(folder / "encoded.json") as temporary:  # last: its presence says complete
            metadata = {"shape": list(self.moments.shape), "names": self.names}
            temporary.write_text(json.dumps(metadata) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> EncodedTable:
        """Reads an encoded set, memory-mapped."""
        folder = Path(folder)
        if not (folder / "encoded.json").exists():
            raise UserError(
                f"no encoded data set in {folder}: make one with "
                "python -m iso3d_jax.data.encode --data DIR --out " + str(folder)
            )
        again = "encode the data set again"
        names = need(read_object(folder / "encoded.json", again), "names", list, folder, default=[])
        arrays = {}
        for name in _ARRAYS:
            file = folder / f"{name}.npy"
            try:
                arrays[name] = np.load(file, mmap_mode="r")
            except (OSError, ValueError, EOFError, SyntaxError) as error:
                raise UserError(f"{file} is damaged ({shorten(error)}); {again}") from None
        return cls(names=names, **arrays)


@dataclasses.dataclass
class EncodedObject:
    """One object of an encoded set."""

    table: EncodedTable
    index: int

    @property
    def azimuth_deg(self) -> Float[np.ndarray, " M"]:
        return self.table.azimuth_deg[self.index]

    @property
    def elevation_deg(self) -> Float[np.ndarray, " M"]:
        return self.table.elevation_deg[self.index]

    def read(self, variant: int, reference: int, views, with_reference: bool) -> dict:
        """What training needs of some views and a reference.

        Returns:
          `moments` [V, h, w, 2C] and `embedding` [D], and with a reference `reference_moments`
          [1, h, w, 2C].
        """
        moments = self.table.moments[variant, self.index]
        row = {
            "moments": moments[views],
            "embedding": self.table.embedding[variant, self.index, reference],
        }
        if with_reference:
            row["reference_moments"] = moments[reference][None]
        return row


def variant_key(seed: int, colour, index) -> jax.Array:
    """The key of an object's colour change; `colour` 0 is the object as it is."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), colour), index)


def _pictures(key, views, references, colour):
    """An object's views [V, H, W, 4] and references [R, H, W, 4], bytes, to pictures on white."""
    both = jnp.concatenate([views, references])[None].astype(jnp.float32) / 255.0
    rgb = jnp.where(colour > 0, change_colours(key, both[..., :3]), both[..., :3])
    pictures = on_white(jnp.concatenate([rgb, both[..., 3:]], -1))[0]
    return jnp.split(pictures, [len(views)])


def _moments(vae, views):
    """Autoencoder moments in the precision that encoded sets have."""
    mean, logvar = encode_pictures(vae, views)
    return jnp.concatenate([mean, logvar], -1).astype(jnp.float16)


@jax.jit
def _encode_object(vae, clip, key, images, references, colour):
    """[M, H, W, 4] views and prepared references of one object to moments and embeddings."""
    views, references = _pictures(key, images, references, colour)
    return _moments(vae, views), clip.embed(references).astype(jnp.float16)


def encode_rows(vae, clip, batch: dict, seed: int = 0) -> dict:
    """What `encode_table` would have given for a batch of pictures; traceable.

    Args:
      vae, clip: the frozen networks.
      batch: `views` [B, V, H, W, 4] and `prepared` [B, H, W, 4], bytes; `colour` and `object` [B];
        `reference_view` [B, 1, H, W, 4] where there is one; the rest is handed on.
      seed: of the colour changes.

    Returns:
      The batch with `moments`, `embedding` and `reference_moments` in the pictures' place.
    """
    batch = dict(batch)
    views, prepared = batch.pop("views"), batch.pop("prepared")
    num_views, reference = views.shape[1], batch.pop("reference_view", None)
    if reference is not None:
        views = jnp.concatenate([views, reference], 1)
    colour, index = batch.pop("colour"), batch.pop("object")
    keys = jax.vmap(lambda c, i: variant_key(seed, c, i))(colour, index)
    views, prepared = jax.vmap(_pictures)(keys, views, prepared[:, None], colour)
    moments = _moments(vae, views.reshape(-1, *views.shape[2:]))  # [B*V, h, w, 2C]
    moments = moments.reshape(*views.shape[:2], *moments.shape[1:])
    batch["moments"] = moments[:, :num_views]
    batch["embedding"] = clip.embed(prepared[:, 0]).astype(jnp.float16)
    if reference is not None:
        batch["reference_moments"] = moments[:, num_views:]
    return batch


def encode_table(
    table: MultiViewTable,
    vae,
    clip,
    *,
    variants: int,
    pictures: Sequence[str],
    seed: int = 0,
    label: str = "encoding",
) -> EncodedTable:
    """Encodes every view of `variants` variants, as they are and mirrored.

    Args:
      vae, clip: the frozen networks.
      variants: 1 keeps the objects' own colours only.
      pictures: how references are prepared (`prepare_picture`'s modes), views taking turns.
      seed: of colours.
      label: of the progress line.
    """
    moments, embeddings = [], []
    progress = Progress(2 * variants * len(table), label, unit="object")
    encode = functools.partial(_encode_object, vae, clip)
    for variant in range(2 * variants):
        colour, mirror = divmod(variant, 2)
        for i in range(len(table)):
            views = table.images[i]
            refs = mix_references(views, pictures, shift=i + variant)
            if mirror:
                views, refs = views[:, :, ::-1], refs[:, :, ::-1]
            with contextlib.nullcontext() if moments else progress.compiling():
                m, e = jax.block_until_ready(
                    encode(variant_key(seed, colour, i), views, refs, colour)
                )
            moments.append(np.asarray(m))
            embeddings.append(np.asarray(e))
            progress.update(variant * len(table) + i + 1)
    progress.close()
    lead = (2 * variants, len(table))
    return EncodedTable(
        moments=np.stack(moments).reshape(*lead, *moments[0].shape),
        embedding=np.stack(embeddings).reshape(*lead, *embeddings[0].shape),
        mirrored=np.arange(2 * variants) % 2 == 1,
        azimuth_deg=table.azimuth_deg,
        elevation_deg=table.elevation_deg,
        names=table.names,
    )


_DATA = flags.DEFINE_list("data", "samples", "rendered data sets; 'samples' is the shipped one")
_SPLIT = flags.DEFINE_enum("split", "train", SPLITS, "the part of the data set")
_DTYPE = flags.DEFINE_enum(*command_line.DTYPE_FLAG)
_VAE = flags.DEFINE_string(
    "vae", None, "model folder with the autoencoder; the shipped one if left out"
)
_CLIP = flags.DEFINE_string(
    "clip", None, "model folder with the image tower; the shipped one if left out"
)
_OUT = flags.DEFINE_string("out", None, "folder to write", required=True)
_VARIANTS = flags.DEFINE_integer("variants", 4, "variants of colours", 1, 1000)
_PICTURES = flags.DEFINE_list(
    "pictures", None, f"how references are fitted to the frame ({', '.join(MODES)}), several "
    "taking turns from view to view; the image tower's own if left out",
)  # fmt: skip


def encode_dataset(
    data: Sequence[str],
    out: str | Path,
    *,
    split: str = "train",
    vae: str | Path | None = None,
    clip: str | Path | None = None,
    variants: int = 4,
    pictures: Sequence[str] | None = None,
    dtype: str | None = None,
) -> EncodedTable:
    """Encodes rendered data sets with frozen networks and writes the result.

    Args:
      data: folders of data sets with as many views each, which become one; 'samples' is shipped.
      out: folder to write.
      split: the part of each data set.
      vae, clip: model folders with the autoencoder and the image tower; None is the shipped model.
      variants: of colours and proportions; the first has the objects' own.
      pictures: how references are fitted to the frame, names of `data.pictures.MODES` that take
        turns from view to view; the image tower's own if None.
      dtype: of the networks, as of `load_model`.

    Raises:
      UserError: no such data set or model, an unknown name, sets that do not fit each other.
    """
    from iso3d_jax.commands import paths
    from iso3d_jax.weights.bundle import load_model

    unknown = sorted(set(pictures or ()) - set(MODES))
    if unknown:
        raise UserError(f"--pictures has {', '.join(unknown)}: there are {', '.join(MODES)}")
    for path in data:
        paths.dataset("--data", path)
    paths.model("--vae", vae, "vae")
    paths.model("--clip", clip, "clip")
    check_folder(out)
    autoencoder = load_model(vae, dtype, ("vae",))
    tower = load_model(clip, dtype, ("clip",))
    encoded = encode_table(
        join([MultiViewTable.load(path, split) for path in data]), autoencoder.vae, tower.clip,
        variants=variants, pictures=list(pictures or [tower.config.picture]),
    )  # fmt: skip
    encoded.save(out)
    return encoded


def main(argv):
    """Encodes and says how much came out."""
    del argv
    encoded = encode_dataset(
        _DATA.value, _OUT.value, split=_SPLIT.value, vae=_VAE.value, clip=_CLIP.value,
        variants=_VARIANTS.value, pictures=_PICTURES.value, dtype=_DTYPE.value,
    )  # fmt: skip
    print(f"{_OUT.value}: {encoded.moments.nbytes / 1e6:.0f} MB of latents, {len(encoded)} objects")


if __name__ == "__main__":
    command_line.run(main)
