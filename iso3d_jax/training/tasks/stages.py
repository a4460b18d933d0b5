"""Stages 1 and 2 as the loop sees them: what is learned, from what, and what it shows."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from iso3d_jax import sampling
from iso3d_jax.core.errors import UserError
from iso3d_jax.data.colour import on_white
from iso3d_jax.data.encode import encode_rows, encode_table
from iso3d_jax.data.encoded import Encoded, EncodedSet
from iso3d_jax.data.grids import tile
from iso3d_jax.data.multiview import EmptySplit, open_dataset
from iso3d_jax.data.orthogonal_sets import SET
from iso3d_jax.data.picture_table import PictureTable
from iso3d_jax.data.table import MultiViewTable, prepare_references
from iso3d_jax.geometry.cameras import camera_condition
from iso3d_jax.models import registry
from iso3d_jax.models.params import FlatParams, merge_params, split_params
from iso3d_jax.models.unet import SLOTS
from iso3d_jax.training import one_step_x0, sharding
from iso3d_jax.training.spec import StageSpec, make_spec
from iso3d_jax.training.tasks import base, batches, denoiser, inputs, mixtures, trainable
from iso3d_jax.training.tasks.task import PREVIEW_OBJECTS, BaseTask
from iso3d_jax.weights import bundle
from iso3d_jax.weights.model_spec import ModelSpec


def network(cfg: StageSpec, load: Callable[[], FlatParams] | None):
    """The UNet's definition, its weights' shapes, and a function that makes the first weights.

    Args:
      cfg: of the stage.
      load: brings weights to start from; None means random ones.
    """
    graphdef, shapes = denoiser.abstract_unet(cfg)

    def fresh() -> FlatParams:
        return trainable.add_lora(split_params(denoiser.build_unet(cfg))[1], cfg)

    def init() -> FlatParams:
        return trainable.add_lora(load(), cfg) if load else fresh()

    return graphdef, jax.eval_shape(lambda params: trainable.add_lora(params, cfg), shapes), init


def _online_encoder(frozen: bundle.Model, device_mesh: Mesh) -> Callable[[dict], dict]:
    """`encode_rows` as a program of its own, with a copy of the frozen networks on each device."""
    parts = {name: split_params(getattr(frozen, name)) for name in ("vae", "clip")}
    everywhere = NamedSharding(device_mesh, P())
    params = {
        name: sharding.put_params(weights, dict.fromkeys(weights, everywhere))
        for name, (_, weights) in parts.items()
    }
    rows = sharding.batch_sharding(device_mesh)

    def encode(params, batch):
        networks = {name: merge_params(parts[name][0], params[name]) for name in parts}
        return encode_rows(networks["vae"], networks["clip"], batch)

    return functools.partial(jax.jit(encode, in_shardings=(None, rows), out_shardings=rows), params)


def load_frozen(vae: str, clip: str, dtype: str) -> bundle.Model:
    """Autoencoder and image tower from their folders (empty: the package's own)."""
    return bundle.Model(
        config=frozen_config(vae, clip),
        vae=bundle.load_model(vae or None, dtype, ("vae",)).vae,
        clip=bundle.load_model(clip or None, dtype, ("clip",)).clip,
    )


def frozen_config(vae: str, clip: str) -> ModelSpec:
    """What the folders of the frozen networks say; no weight is read."""
    tower = bundle.load_config(clip or None)
    tower.network("clip")  # refused here, where there is none
    return bundle.load_config(vae or None).take(tower, "clip")


IN_MEMORY = 4 << 30  # bytes of latents that a run may compute at its start and hold


class DenoiserTask(BaseTask):
    """Stage 1 or 2. The autoencoder and the image tower are frozen and come from model folders."""

    train_step = staticmethod(denoiser.train_step)
    batches: batches.Batches
    cfg: StageSpec

    @classmethod
    def from_config(cls, config: ConfigDict) -> Self:
        return cls.from_spec(make_spec(StageSpec, config))

    @classmethod
    def from_spec(cls, cfg: StageSpec, table: mixtures.Table | None = None) -> Self:
        """The task of a spec, in which what it leaves to its base and its folders is filled in.

        Args:
          table: encoded objects in memory, in the place of those that the spec names.

        Raises:
          UserError: what the stage needs is missing, or values that do not go together.
        """
        inputs.require(cfg)
        cfg, inherited = base.settle(cfg)
        # What the frozen networks are, the checkpoint's own metadata says.
        told = frozen_config(cfg.init.vae, cfg.init.clip)
        model = cfg.model.take(told, "vae", "clip", "scale_factor")
        cfg = dataclasses.replace(cfg, model=model)
        denoiser.check_options(cfg)
        inherited.announce(f"stage {cfg.stage}")
        return cls(cfg, inherited, table)

    def __init__(
        self, cfg: StageSpec, inherited: base.Inheritance, table: mixtures.Table | None = None
    ):
        self.cfg = cfg
        self.label, self.summary = f"stage {cfg.stage}", inherited.summary
        self.config = dataclasses.replace(bundle.make_config(cfg.model), **inherited.records)
        width = self.config.network("clip").output_dim
        if width != self.config.context_dim:
            raise UserError(
                f"the vision tower in {cfg.init.clip or 'the package'} gives embeddings of "
                f"{width} numbers and the UNet takes context tokens of "
                f"{self.config.context_dim}; of the public towers {inputs.TOWER} gives 1024"
            )
        if cfg.sample_every or cfg.ablate_every:
            self._check_size(self.held_out.images.shape[2])
        pictures = self._plain_pictures()
        self.batches = batches.make_batches(
            cfg, self._table() if table is None else table, pictures
        )
        seen = self.batches.table.camera_range
        if seen:  # what distillation and evaluation may be compared with
            self.config = dataclasses.replace(self.config, camera_range=seen)
        self._digest = batches.data_digest(self.batches.table)
        if pictures is not None:
            self._digest ^= batches.data_digest(pictures)
        self._encode: Callable[[dict], dict] | None = None
        self.sharding_rules = denoiser.sharding_rules(cfg)
        self.graphdef, self.abstract_params, self.init_params = network(
            cfg, self._load_init if cfg.init_from or cfg.init.drawing else None
        )

    @functools.cached_property
    def frozen(self) -> bundle.Model:
        """The frozen networks, read when something needs them: a run on latents that shows no
        samples never has them in memory."""
        return load_frozen(self.cfg.init.vae, self.cfg.init.clip, self.cfg.dtype)

    @functools.cached_property
    def held_out(self) -> MultiViewTable:
        """What previews and the one-step table show: the first objects of the validation split, or
        where the set has none of those that are trained on. Of several sets the first's."""
        path = self.cfg.data.split(",")[0]
        try:
            return MultiViewTable.load(path, "validation", most=PREVIEW_OBJECTS)
        except EmptySplit:
            print(
                f"{path} has no validation split: previews show objects that are trained on",
                file=sys.stderr,
            )
            return MultiViewTable.load(path, "train", most=PREVIEW_OBJECTS)

    @functools.cached_property
    def held_out_references(self) -> np.ndarray:
        """The first objects' pictures as the model prepares them."""
        return prepare_references(self.held_out.images[:PREVIEW_OBJECTS, :SET], self.config.picture)

    def _table(self) -> mixtures.Table:
        """The training split: latents computed once, or pictures to be encoded in every step."""
        cfg, modes = self.cfg, self.cfg.pictures or (self.config.picture,)
        pictures, encoded = ([name for name in value.split(",") if name] for value in
                             (cfg.data, cfg.data_encoded))  # fmt: skip
        mixtures.check_weights(cfg.data_weights, len(encoded or pictures))
        if cfg.encoding == "online":
            if encoded:
                raise UserError("encoding=online reads pictures: leave data_encoded out")
            tables = [PictureTable(r, cfg.data_variants, modes) for r in map(self._open, pictures)]
            return mixtures.mix(tables, pictures, cfg.data_weights)
        if encoded:
            tables = [EncodedSet(path) for path in encoded]
            for table, path in zip(tables, encoded, strict=True):
                self._check_encoded(table, path)
            return mixtures.mix(tables, encoded, cfg.data_weights)
        self._check_fits(pictures)
        tables = [
            encode_table(
                MultiViewTable.load(path, "train"),
                self.frozen.vae,
                self.frozen.clip,
                variants=cfg.data_variants,
                pictures=modes,
                label=f"{self.label}: encoding",
            )
            for path in pictures
        ]
        if not (cfg.sample_every or cfg.ablate_every):
            del self.frozen
        for table, path in zip(tables, pictures, strict=True):
            self._check_encoded(table, path)
        return mixtures.mix(tables, pictures, cfg.data_weights)

    def _plain_pictures(self) -> mixtures.Table | None:
        """What steps of plain pictures read, if there are any."""
        path = self.cfg.data_pictures
        if not path:
            return None
        pictures = EncodedSet(path)
        self._check_encoded(pictures, path)
        if pictures.num_views != 1:
            raise UserError(
                f"data_pictures: {path} has {pictures.num_views} views of each object: plain "
                "pictures are encoded with data.encode --plain FOLDER"
            )
        return pictures

    def _open(self, path: str) -> Sequence[dict]:
        records = open_dataset(path, "train")
        return records if self.cfg.loader == "grain" else list(records)

    def _check_fits(self, pictures: Sequence[str]) -> None:
        """Refuses to hold what no memory should: latents of hundreds of thousands of objects."""
        cfg = self.cfg
        sets = [open_dataset(path, "train") for path in pictures]
        views = sum(len(one) * len(one[0]["azimuth_deg"]) for one in sets)
        size, channels, width = (
            self.config.latent_size, self.config.latent_channels, self.config.context_dim
        )  # fmt: skip
        each = 2 * (size * size * 2 * channels + width)  # float16
        total = 2 * cfg.data_variants * views * each
        if total > IN_MEMORY:
            raise UserError(
                f"encoding=once would hold {total / 1e9:.1f} GB of latents in memory: write them "
                f"once with python -m iso3d_jax.data.encode --data {cfg.data} --out DIR, and give "
                "--config.data_encoded=DIR"
            )

    def on_devices(self, batch: dict, device_mesh: Mesh) -> dict:
        """Encodes a batch of pictures where `encoding` is "online"; every device its own rows."""
        if "views" not in batch:
            return batch
        if self._encode is None:
            self._encode = _online_encoder(self.frozen, device_mesh)
        return self._encode(batch)

    def position(self) -> dict[str, int]:
        return self.batches.position() | {"data": self._digest}

    def restore_position(self, position: dict[str, int]) -> None:
        theirs = position.get("data", self._digest)
        if theirs != self._digest:
            raise UserError(
                f"the data in {self.cfg.data_encoded or self.cfg.data} are not those that this run "
                "was trained on: put them back, or give another --workdir"
            )
        self.batches.restore_position(
            {key: value for key, value in position.items() if key != "data"}
        )

    def trained(self, params: Iterable[str]) -> list[str] | None:
        return trainable.trained_paths(params, self.cfg)

    def batch(self, step: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        return self.batches(step, rows)  # reads these rows alone

    def names(self, step: int) -> list[str]:
        return self.batches.names(step)

    def _load_init(self) -> FlatParams:
        """The UNet that training starts from; it must fit the config to the last shape."""
        if not self.cfg.init_from:
            return split_params(denoiser.build_unet(self.cfg))[1] | self._load_prior()
        weights = bundle.load_weights(self.cfg.init_from, ("unet",), jnp.float32)["unet"]
        if not weights:
            raise UserError(f"the model in {self.cfg.init_from} has no weights for 'unet'")
        stem = "input_blocks/0/stem/kernel"
        numbers = self.config.network("unet")
        extra = numbers.reference_channels
        if extra and stem in weights and weights[stem].shape[2] == numbers.in_channels:
            # The new channels start without effect: the network is stage 1's at first.
            pad = ((0, 0), (0, 0), (0, extra), (0, 0))
            weights[stem] = jnp.pad(jnp.asarray(weights[stem], jnp.float32), pad)
        shapes = bundle.abstract_network("unet", self.config)[1]
        new = [
            part
            for part in SLOTS  # where it is new it starts silent, too
            if any(path.startswith(part) for path in shapes)
            and not any(path.startswith(part) for path in weights)
        ]
        if new:  # a network of its own, as large as the other: only where something needs it
            fresh = split_params(denoiser.build_unet(self.cfg))[1]
            weights |= {path: w for path, w in fresh.items() if path.startswith(tuple(new))}
        weights |= self._load_prior()
        unet = bundle.load_network("unet", self.config, weights, self.cfg.init_from)
        return split_params(unet)[1]

    def _load_prior(self) -> FlatParams:
        """What `init.drawing` gives the UNet's prior slot: weights of another training."""
        source = self.cfg.init.drawing
        if not source:
            return {}
        mine, wanted = {}, {}
        if prior := registry.find_by_numbers("unet", self.config.network("unet")).prior:
            found = prior.load(source)
            mine = {prior.prefix + path: jnp.asarray(w) for path, w in found.items()}
            shapes = bundle.abstract_network("unet", self.config)[1]
            wanted = {k: v.shape for k, v in shapes.items() if k.startswith(prior.prefix)}
        if not wanted or {path: w.shape for path, w in mine.items()} != wanted:
            raise UserError(
                f"--config.init.drawing: {source} has no drawing decoder that fits the UNet's "
                "layout; it has to be the workdir of an image tower trained for this model, or a "
                "whole model"
            )
        return mine

    def _check_size(self, size: int) -> None:
        """Refuses pictures of another resolution than the config's, before they are encoded."""
        if size != self.config.resolution:
            raise UserError(
                f"the data set {self.cfg.data} has pictures of {size} pixels and this config is "
                f"for {self.config.resolution}: add --config.model.resolution={size}, or render "
                f"it with --resolution {self.config.resolution}"
            )

    def _check_encoded(self, encoded: Encoded, path: str) -> None:
        want = (self.config.latent_size, self.config.latent_size, 2 * self.config.latent_channels)
        if tuple(encoded.latent) != want or encoded.width != self.config.context_dim:
            raise UserError(
                f"the encoded data set {path} has latents "
                f"{tuple(encoded.latent)} and embeddings of {encoded.width}, "
                f"but the model has {want} and "
                f"{self.config.context_dim}: encode it again with this model"
            )

    def preview(self, params: FlatParams) -> np.ndarray:
        """Rows of: prepared picture, 4 generated views at the true cameras, 4 true views."""
        table, config = self.held_out, self.config
        model = dataclasses.replace(
            self.frozen, unet=merge_params(self.graphdef, trainable.merge_lora(params, self.cfg))
        )
        rows = []
        for i in range(len(self.held_out_references)):
            reference = on_white(self.held_out_references[i, 0].astype(np.float32) / 255)
            views = slice(SET, 2 * SET) if table.images.shape[1] > SET else slice(0, SET)
            camera = camera_condition(
                table.elevation_deg[i, views],
                table.azimuth_deg[i, views] - table.azimuth_deg[i, 0],
                config.sampling_cameras,
                fov_deg=table.fov_deg[i, views],
                distance=table.distance[i, views],
            )
            latents = sampling.sample_latents(
                sampling.network_for(model, reference),
                sampling.embed_pictures(self.frozen, reference[None]),
                camera,
                self.frozen.alphas_cumprod,
                jax.random.key(i),
                **sampling.settings(config, steps=min(25, config.steps or 25)),
            )
            drawn = np.asarray(
                sampling.decode_views(self.frozen.vae, latents / config.scale_factor)
            )[0]
            truth = on_white(table.images[i, views].astype(np.float32) / 255)
            rows.append([reference, *drawn, *truth])
        return np.asarray(tile(rows), np.float32) / 255

    @functools.cached_property
    def _probe(self) -> one_step_x0.Probe:
        """The first validation objects: view 0 as the picture, another set as the target."""
        table, views = self.held_out, slice(SET, 2 * SET)
        if table.images.shape[1] <= SET:
            views = slice(0, SET)
        few = slice(len(self.held_out_references))
        model = bundle.Model(config=self.config, vae=self.frozen.vae, clip=self.frozen.clip)
        return one_step_x0.Probe.make(
            model,
            on_white(self.held_out_references[:, 0].astype(np.float32) / 255),
            on_white(table.images[few, views].astype(np.float32) / 255),
            table.azimuth_deg[few, views] - table.azimuth_deg[few, :1],
            table.elevation_deg[few, views],
            table.fov_deg[few, views],
            table.distance[few, views],
        )

    def diagnose(self, params: FlatParams) -> dict[str, float]:
        """The one-step x0 table with embedding and cameras taken away (`one_step_x0.py`)."""
        unet = merge_params(self.graphdef, trainable.merge_lora(params, self.cfg))
        return one_step_x0.flatten(one_step_x0.ablate(unet, self._probe))

    def export(self, params: FlatParams, folder: Path) -> None:
        sources = {"vae": self.cfg.init.vae, "clip": self.cfg.init.clip}
        frozen = {
            name: bundle.load_weights(source or None, (name,))[name]
            for name, source in sources.items()
        }
        params = trainable.merge_lora(params, self.cfg)
        bundle.save_bundle(folder, self.config, {"unet": params, **frozen})
