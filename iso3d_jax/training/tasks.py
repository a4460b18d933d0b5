"""The kinds of training as the loop sees them: what is learned, from what, and what it shows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from iso3d_jax import sampling
from iso3d_jax.data.colour import on_white
from iso3d_jax.data.encode import EncodedTable, encode_table
from iso3d_jax.data.grids import tile
from iso3d_jax.data.table import SET, MultiViewTable, prepare_references
from iso3d_jax.errors import UserError
from iso3d_jax.evaluation import ablation
from iso3d_jax.geometry.cameras import camera_condition
from iso3d_jax.models.params import FlatParams, merge_params, split_params
from iso3d_jax.training import autoencoder, denoiser, image_tower, sharding, trainable
from iso3d_jax.weights import bundle

PREVIEW_OBJECTS = 8


def make_task(cfg: ConfigDict):
    """The task that `cfg.task` names."""
    kinds = {
        "autoencoder": AutoencoderTask,
        "image_tower": ImageTowerTask,
        "denoiser": DenoiserTask,
    }
    return kinds[cfg.task](cfg)


class _Task:
    """Batches and steps come from the subclass's module."""

    label: str
    batches: autoencoder.Batches | image_tower.Batches | denoiser.Batches
    init_params: FlatParams | Callable[[], FlatParams]
    sharding_rules = sharding.REPLICATED

    @functools.cached_property
    def abstract_params(self) -> dict[str, jax.ShapeDtypeStruct]:
        return jax.eval_shape(lambda: self.init_params)

    def trained(self, params: FlatParams) -> list[str] | None:
        return None

    def branch(self, step: int) -> str:
        return self.batches.branch(step)

    def batch(self, step: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: value[rows] for name, value in self.batches(step).items()}

    def names(self, step: int) -> list[str]:
        return []

    def diagnose(self, params: FlatParams) -> dict[str, float]:
        raise UserError(f"ablate_every is for stages 1 and 2, not for the {self.label}")


class AutoencoderTask(_Task):
    """The KL autoencoder; its export measures the latents' scale."""

    label = "autoencoder"
    train_step = staticmethod(autoencoder.train_step)

    def __init__(self, cfg: ConfigDict):
        self.cfg = cfg
        self.table = MultiViewTable.load(cfg.data, "train")
        self.held_out = MultiViewTable.load(cfg.data, "validation").images[:PREVIEW_OBJECTS, :2]
        self.batches = autoencoder.Batches(cfg, self.table)
        if autoencoder.trained_paths({}, cfg) is not None and not cfg.init_from:
            raise UserError(
                f"trainable '{cfg.trainable}' needs --config.init_from=DIR, the workdir of a "
                "trained autoencoder"
            )
        vae, self.scale_factor = bundle.build_network("vae", cfg.model, cfg.seed), None
        if cfg.init_from:
            if cfg.trainable == "decoder":  # the latents stay, and with them their scale
                self.scale_factor = bundle.load_config(cfg.init_from).scale_factor
            weights = bundle.load_weights(cfg.init_from, ("vae",))["vae"]
            vae = bundle.load_network("vae", cfg.model, weights, cfg.init_from)
        self.graphdef, self.init_params = split_params(vae)

    def trained(self, params: FlatParams) -> list[str] | None:
        return autoencoder.trained_paths(params, self.cfg)

    def preview(self, params: FlatParams) -> np.ndarray:
        vae = merge_params(self.graphdef, params)
        images = on_white(
            self.held_out.reshape(-1, *self.held_out.shape[2:]).astype(np.float32) / 255
        )
        decoded = jax.jit(lambda v, x: v.decode(v.encode(x * 2 - 1)[0]) * 0.5 + 0.5)(vae, images)
        return np.asarray(tile([list(images), list(np.asarray(decoded))]), np.float32) / 255

    def export(self, params: FlatParams, folder: Path) -> None:
        vae = merge_params(self.graphdef, params)
        images = on_white(self.table.images[:64, 0].astype(np.float32) / 255)
        mean, logvar = vae.encode(images * 2 - 1)
        config = bundle.make_config(self.cfg.model)
        measured = float(1.0 / jnp.sqrt(jnp.var(mean) + jnp.exp(logvar).mean()))
        config.scale_factor = self.scale_factor or measured
        bundle.save_bundle(folder, config, {"vae": params}, dtype=jnp.float32)


class ImageTowerTask(_Task):
    """The image tower, from scratch, with the heads that its training needs."""

    label = "image tower"
    train_step = staticmethod(image_tower.train_step)

    def __init__(self, cfg: ConfigDict):
        self.cfg = cfg
        self.table = MultiViewTable.load(cfg.data, "train")
        held_out = MultiViewTable.load(cfg.data, "validation")
        self.held_out = image_tower.Batches(cfg.copy_and_resolve_references(), held_out)
        self.batches = image_tower.Batches(cfg, self.table)
        module = image_tower.TowerWithHeads(
            bundle.build_network("clip", cfg.model, cfg.seed),
            cfg.model.clip.output_dim,
            rngs=nnx.Rngs(cfg.seed + 1),
        )
        self.graphdef, self.init_params = split_params(module)

    def preview(self, params: FlatParams) -> np.ndarray:
        batch = {
            k: v[: PREVIEW_OBJECTS * (2 if k == "camera" else 1)]
            for k, v in self.held_out(0).items()
        }
        model = merge_params(self.graphdef, params)
        references = on_white(batch["references"][:, 0].astype(np.float32) / 255)
        drawn = model.draw(model.tower.embed(references), batch["camera"][::2])
        drawn = np.asarray(drawn[..., :3] + 1 - drawn[..., 3:])
        truth = on_white(batch["views"].astype(np.float32) / 255)
        rows = [[references[i], *drawn[i], *truth[i]] for i in range(len(references))]
        return np.asarray(tile(rows, self.cfg.model.resolution), np.float32) / 255

    def export(self, params: FlatParams, folder: Path) -> None:
        tower = {k.removeprefix("tower/"): v for k, v in params.items() if k.startswith("tower/")}
        bundle.save_bundle(
            folder, bundle.make_config(self.cfg.model), {"clip": tower}, dtype=jnp.float32
        )


def _require_inputs(cfg: ConfigDict) -> None:
    """One message with everything that a stage cannot start without.

    The tiny model needs nothing but, in stage 2, stage 1's result: its data, autoencoder and image
    tower ship with the package.
    """
    missing = []
    tiny = cfg.model.name == "tiny"
    if cfg.trainable != "all" and not cfg.init_from:
        raise UserError(
            f"trainable={cfg.trainable} changes weights that exist, and a new network's attention "
            "has no gradient: add --config.init_from=DIR, or --config.trainable=all"
        )
    from_stage1 = cfg.stage == 2 and cfg.ablation != "no_stage1"
    if not cfg.init_from and (from_stage1 or not tiny):
        missing.append(
            "--config.init_from=DIR, the workdir of a finished stage 1"
            if from_stage1
            else "--config.init_from=DIR, a text-to-3D base such as MVDream's, made with "
            "python -m iso3d_jax.convert --from sd-v2.1-base-4view.pt --out DIR"
        )
    if not tiny:
        for name, what in (("vae", "the autoencoder"), ("clip", "the CLIP vision tower")):
            if not cfg.init[name]:
                missing.append(
                    f"--config.init.{name}=DIR, {what}, made with python -m iso3d_jax.convert"
                )
        if not cfg.data:
            missing.append(
                "--config.data=DIR, a multi-view data set at the model's resolution, made with "
                "python -m iso3d_jax.data.render --assets MESHES --out DIR --resolution "
                f"{cfg.model.resolution}"
            )
    if missing:
        raise UserError(
            f"stage {cfg.stage} of the {cfg.model.name} model cannot start; missing are: "
            + "; ".join(f"({i}) {m}" for i, m in enumerate(missing, 1))
        )
    for path in (cfg.init_from, cfg.init.vae, cfg.init.clip):
        if path:
            bundle.find_bundle(path)  # refuses a wrong path now, not after minutes of encoding


def network(cfg: ConfigDict, load: Callable[[], FlatParams] | None):
    """The UNet's definition, its weights' shapes, and a function that makes the first weights.

    Args:
      cfg: the training config.
      load: brings weights to start from; None means random ones.
    """
    graphdef = nnx.split(nnx.eval_shape(lambda: denoiser.build_unet(cfg)), nnx.Param)[0]

    def fresh() -> FlatParams:
        return trainable.add_lora(split_params(denoiser.build_unet(cfg))[1], cfg)

    def init() -> FlatParams:
        return trainable.add_lora(load(), cfg) if load else fresh()

    return graphdef, jax.eval_shape(fresh), init


class DenoiserTask(_Task):
    """Stage 1 or 2. The autoencoder and the image tower are frozen and come from model folders."""

    train_step = staticmethod(denoiser.train_step)

    def __init__(self, cfg: ConfigDict):
        self.cfg = cfg
        self.label = f"stage {cfg.stage}"
        denoiser.check_options(cfg)
        _require_inputs(cfg)
        self.frozen = self._load_frozen()
        # What the frozen networks are, the checkpoint's own metadata says.
        with cfg.unlocked():
            for key in ("vae", "clip", "scale_factor", "picture", "resolution"):
                if key in self.frozen.config:
                    cfg.model[key] = self.frozen.config[key]
        self.config = bundle.make_config(cfg.model)
        if cfg.data_encoded:
            encoded = EncodedTable.load(cfg.data_encoded)
        else:
            encoded = encode_table(
                MultiViewTable.load(cfg.data, "train"),
                self.frozen.vae,
                self.frozen.clip,
                variants=cfg.data_variants,
                picture=self.config.picture,
                label=f"{self.label}: encoding",
            )
        self._check_encoded(encoded)
        self.held_out = MultiViewTable.load(cfg.data, "validation")
        self.held_out_references = prepare_references(
            self.held_out.images[:PREVIEW_OBJECTS, :SET], self.config.picture
        )
        self.batches = denoiser.Batches(cfg, encoded)
        self.sharding_rules = denoiser.sharding_rules(cfg)
        self.graphdef, self.abstract_params, self.init_params = network(
            cfg, self._load_init if cfg.init_from else None
        )

    def _load_frozen(self) -> bundle.Model:
        """vae and clip from `init.vae` and `init.clip` (empty: the package's own)."""
        cfg = self.cfg
        vae = bundle.load_model(cfg.init.vae or None, networks=("vae",))
        clip = bundle.load_model(cfg.init.clip or None, networks=("clip",))
        config = ConfigDict(vae.config.to_dict())
        config.clip = clip.config.clip
        return bundle.Model(config=config, vae=vae.vae, clip=clip.clip)

    def trained(self, params: FlatParams) -> list[str] | None:
        return trainable.trained_paths(params, self.cfg)

    def batch(self, step: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        return self.batches(step, rows)  # reads these rows alone

    def names(self, step: int) -> list[str]:
        return self.batches.names(step)

    def _load_init(self) -> FlatParams:
        """The UNet that training starts from; it must fit the config to the last shape."""
        weights = bundle.load_weights(self.cfg.init_from, ("unet",))["unet"]
        if not weights:
            raise UserError(f"the model in {self.cfg.init_from} has no weights for 'unet'")
        stem = "input_blocks/0/stem/kernel"
        extra = self.cfg.model.unet.get("reference_channels", 0)
        if extra and stem in weights and weights[stem].shape[2] == self.config.unet.in_channels:
            # The new channels start without effect: the network is stage 1's at first.
            pad = ((0, 0), (0, 0), (0, extra), (0, 0))
            weights[stem] = jnp.pad(jnp.asarray(weights[stem], jnp.float32), pad)
        if not any(path.startswith("layout/") for path in weights):  # it starts silent, too
            fresh = split_params(denoiser.build_unet(self.cfg))[1]
            weights |= {path: w for path, w in fresh.items() if path.startswith("layout/")}
        unet = bundle.load_network("unet", self.config, weights, self.cfg.init_from)
        return split_params(unet)[1]

    def _check_encoded(self, encoded: EncodedTable) -> None:
        want = (self.config.latent_size, self.config.latent_size, 2 * self.config.latent_channels)
        if (
            encoded.moments.shape[3:] != want
            or encoded.embedding.shape[-1] != self.config.context_dim
        ):
            raise UserError(
                f"the encoded data set {self.cfg.data_encoded} has latents "
                f"{encoded.moments.shape[3:]} and embeddings of {encoded.embedding.shape[-1]}, "
                f"but the model has {want} and "
                f"{self.config.context_dim}: encode it again with this model"
            )

    def preview(self, params: FlatParams) -> np.ndarray:
        """Rows of: prepared picture, 4 generated views at the true cameras, 4 true views."""
        table, config = self.held_out, self.config
        unet = merge_params(self.graphdef, trainable.merge_lora(params, self.cfg))
        rows = []
        for i in range(len(self.held_out_references)):
            reference = on_white(self.held_out_references[i, 0].astype(np.float32) / 255)
            views = slice(SET, 2 * SET) if table.images.shape[1] > SET else slice(0, SET)
            camera = camera_condition(
                table.elevation_deg[i, views],
                table.azimuth_deg[i, views] - table.azimuth_deg[i, 0],
                config.camera_encoding,
            )
            latents = sampling.sample_latents(
                unet,
                sampling.embed_pictures(self.frozen, reference[None]),
                camera,
                self.frozen.alphas_cumprod,
                jax.random.key(i),
                config.guidance_scale,
                config.eta,
                latent_shape=(config.latent_size, config.latent_size, config.latent_channels),
                steps=25,
                parameterization=config.parameterization,
            )
            drawn = np.asarray(
                sampling.decode_views(self.frozen.vae, latents / config.scale_factor)
            )[0]
            truth = on_white(table.images[i, views].astype(np.float32) / 255)
            rows.append([reference, *drawn, *truth])
        return np.asarray(tile(rows), np.float32) / 255

    @functools.cached_property
    def _probe(self) -> ablation.Probe:
        """The first validation objects: view 0 as the picture, another set as the target."""
        table, views = self.held_out, slice(SET, 2 * SET)
        if table.images.shape[1] <= SET:
            views = slice(0, SET)
        few = slice(len(self.held_out_references))
        model = bundle.Model(config=self.config, vae=self.frozen.vae, clip=self.frozen.clip)
        return ablation.Probe.make(
            model,
            on_white(self.held_out_references[:, 0].astype(np.float32) / 255),
            on_white(table.images[few, views].astype(np.float32) / 255),
            table.azimuth_deg[few, views] - table.azimuth_deg[few, :1],
            table.elevation_deg[few, views],
        )

    def diagnose(self, params: FlatParams) -> dict[str, float]:
        """The one-step x0 table with embedding and cameras taken away (`evaluation/ablation`)."""
        unet = merge_params(self.graphdef, trainable.merge_lora(params, self.cfg))
        return ablation.flatten(ablation.ablate(unet, self._probe))

    def export(self, params: FlatParams, folder: Path) -> None:
        frozen = {name: split_params(getattr(self.frozen, name))[1] for name in ("vae", "clip")}
        params = trainable.merge_lora(params, self.cfg)
        bundle.save_bundle(folder, self.config, {"unet": params, **frozen})
