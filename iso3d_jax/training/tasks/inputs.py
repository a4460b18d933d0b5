"""What stages 1 and 2 cannot start without, in one message."""

from __future__ import annotations

from iso3d_jax.commands import paths
from iso3d_jax.core.errors import UserError
from iso3d_jax.training.spec import StageSpec

# The public vision tower whose embeddings are as wide as the context of Stable Diffusion 2's size.
TOWER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


def require(cfg: StageSpec) -> None:
    """One message with everything that a stage cannot start without.

    The tiny model needs nothing but, in stage 2, stage 1's result: its data, autoencoder and image
    tower ship with the package.
    """
    missing = []
    tiny = cfg.model.name == "tiny"
    if cfg.trainable in ("attention", "lora") and not cfg.init_from:
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
        for name, what, source in (
            ("vae", "the autoencoder", "the base's file"), ("clip", "the CLIP vision tower", TOWER)
        ):  # fmt: skip
            if not getattr(cfg.init, name):
                missing.append(
                    f"--config.init.{name}=DIR, {what}, made with python -m iso3d_jax.convert "
                    f"--from {source} --out DIR"
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
    paths.training(cfg.to_dict())  # refuses a wrong path now, not after minutes of encoding
