"""Trains, generates, reconstructs and scores every run of a comparison; can be stopped.

OUT/encoded                      the training set, encoded once
OUT/seed0/stage1, method, ...      trainings; `trained.json` says that one is finished
OUT/seed0/runs/method/scores.json  what a run's views and scenes scored, pictures.npz beside it
OUT/seed0/scenes/method/NAME       reconstructions
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from iso3d_jax.core.errors import EmptySurface, UserError
from iso3d_jax.core.files import atomic_path
from iso3d_jax.core.images import to_uint8
from iso3d_jax.data.encode import encode_table
from iso3d_jax.data.orthogonal_sets import SET
from iso3d_jax.data.table import MultiViewTable
from iso3d_jax.evaluation import consistency, scores, views
from iso3d_jax.evaluation.ablations import plan
from iso3d_jax.reconstruction import pictures, run, state
from iso3d_jax.reconstruction.spec import ReconstructionSpec
from iso3d_jax.reconstruction.state import State
from iso3d_jax.training import loop, one_step_x0
from iso3d_jax.training.tasks.stages import DenoiserTask, load_frozen
from iso3d_jax.weights.bundle import Model, load_model

TIMESTEPS = (800, 980)  # of the one-step table
METRICS = ("psnr", "ssim", "mask_iou", "embedding", "embedding_to_picture")


class _Task(DenoiserTask):
    """Without samples: the comparison makes its own."""

    def preview(self, params):
        return None


class Comparison:
    """All runs of one folder; what they share is made once: data, task, compiled programs."""

    def __init__(
        self, cfg: plan.ComparisonSpec, out: Path, note: Callable[[str], None] = print, dtype=None
    ):
        self.cfg, self.out, self.note, self.dtype = cfg, out, note, dtype
        self.train_programs: dict[str, dict] = {}
        self.scene_programs: dict[str, dict] = {}
        table = MultiViewTable.load(cfg.data, cfg.split)
        chosen = views.spaced(len(table), cfg.objects)
        picture_of = views.picture_views(table)
        self.originals: list[UInt8[np.ndarray, "H W 4"]] = [
            table.images[i, picture_of[i]] for i in chosen
        ]
        first = cfg.stage1
        self.frozen = load_frozen(first.init.vae, first.init.clip, first.dtype)
        self.task = views.make_task(table, self.frozen.config.picture).spaced(len(chosen))

    def encoded(self) -> str:
        """The folder of the encoded training set; made where it is not there yet."""
        if self.cfg.stage1.data_encoded:
            return self.cfg.stage1.data_encoded
        folder = self.out / "encoded"
        if not (folder / "encoded.json").exists():
            table = MultiViewTable.load(self.cfg.data, "train")
            encode_table(
                table, self.frozen.vae, self.frozen.clip,
                variants=self.cfg.stage1.data_variants, pictures=[self.frozen.config.picture],
            ).save(folder)  # fmt: skip
        return str(folder)

    def train(self, name: str, seed: int) -> Path:
        """The workdir of a finished training."""
        workdir = self.out / f"seed{seed}" / name
        done = workdir / "trained.json"
        if done.is_file():
            return workdir
        stage1 = self.out / f"seed{seed}" / "stage1"
        cfg = plan.training_spec(self.cfg, name, seed, self.encoded(), stage1)
        if cfg.init_from:
            self.train("stage1", seed)
        self.note(f"seed {seed}: training {name}, {cfg.steps} steps")
        task = _Task.from_spec(cfg)
        programs = self.train_programs.setdefault(plan.program_key(task.cfg), {})
        loop.fit(task, workdir, programs=programs)
        shutil.rmtree(workdir / "checkpoints")  # only an unfinished run needs them
        with atomic_path(done) as temporary:
            temporary.write_text(json.dumps({"steps": cfg.steps, "seed": cfg.seed}) + "\n")
        return workdir

    def losses(self, name: str, seed: int) -> list[tuple[int, float]]:
        """The logged (step, loss) of a finished training; empty where its folder is gone."""
        log = self.out / f"seed{seed}" / name / "metrics.jsonl"
        if not log.is_file():
            return []
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        return [(r["step"], v) for r in rows for k, v in r.items() if k.startswith("loss/")]

    def scene(self, name: str, seed: int, model: Model, i: int) -> Float[np.ndarray, "4 H W 3"]:
        """Object i's scene, seen from the cameras of the true views."""
        which = plan.RUNS[name]
        spec = plan.scene_spec(self.cfg, which)
        # A network with the reference among its channels, or another loss, is another program.
        unet = dataclasses.asdict(model.config.network("unet"))
        key = json.dumps([unet, which.reference_l2])
        folder = self.out / f"seed{seed}" / "scenes" / name / str(i)
        try:
            scene = run.reconstruct(
                model, self.originals[i], folder, spec, model_id=f"{which.training}, seed {seed}",
                programs=self.scene_programs.setdefault(key, {}),
            ).state  # fmt: skip
        except EmptySurface as error:  # a result too: it is scored as the nothing that it shows
            self.note(f"{folder}: {error}")
            scene = state.load(folder, spec)
        sides = self.task.azimuth_deg[i], self.task.elevation_deg[i]
        return see(scene, *sides, spec, model)

    def measure(self, name: str, seed: int) -> tuple[dict, dict[str, np.ndarray]]:
        """A run's figures and pictures (uint8 [N, 4, H, W, 3] by what they are)."""
        folder = self.out / f"seed{seed}" / "runs" / name
        if (folder / "scores.json").is_file():
            with np.load(folder / "pictures.npz") as data:
                return json.loads((folder / "scores.json").read_text()), dict(data)
        cfg, task = self.cfg, self.task
        which = plan.RUNS[name]
        shown: dict[str, Any]
        model = load_model(self.train(which.training, seed), self.dtype)
        if which.reference_l2:  # the method's model: its views and figures are the method's
            figures, shown = self.measure(which.training, seed)
            figures = {k: v for k, v in figures.items() if not k.startswith("scene")}
            shown = {"views": shown["views"]}
        else:
            self.note(f"seed {seed}: {name}: generating {len(task)} x {SET} views")
            drawn = views.generate(model, task, steps=cfg.ddim_steps, seed=seed)
            figures = figures_of(drawn, task, model, "views") | self._one_step(model)
            shown = {"views": to_uint8(drawn)}
        if cfg.scenes:
            self.note(f"seed {seed}: {name}: score distillation of {cfg.scenes} objects")
            seen = np.stack([self.scene(name, seed, model, i) for i in range(cfg.scenes)])
            few = task.first(cfg.scenes)
            figures |= figures_of(seen, few, model, "scene")
            shown["scene"] = to_uint8(seen)
        with atomic_path(folder / "pictures.npz") as temporary:
            np.savez_compressed(temporary, **shown)
        with atomic_path(folder / "scores.json") as temporary:  # last: it says that all is there
            temporary.write_text(json.dumps(figures, indent=1) + "\n")
        return figures, shown

    def _one_step(self, model: Model) -> dict[str, float]:
        """One-step x0 with the right and with another object's embedding."""
        task = self.task
        probe = one_step_x0.Probe.make(
            model, task.pictures, task.truth, task.azimuth_deg, task.elevation_deg,
            task.fov_deg, task.distance,
        )  # fmt: skip
        return one_step_x0.flatten(one_step_x0.ablate(model.unet, probe, TIMESTEPS))

    def baselines(self) -> dict[str, dict[str, float]]:
        """The two baselines' figures, the same for all seeds."""
        train = MultiViewTable.load(self.cfg.data, "train")
        retrieved, _ = views.retrieve(self.frozen, self.task, train)
        mean = np.broadcast_to(views.mean_picture(train), retrieved.shape)
        answers = {"nearest training object": retrieved, "mean training picture": mean}
        return {n: figures_of(v, self.task, self.frozen, "views") for n, v in answers.items()}


def see(
    state: State, azimuth_deg: np.ndarray, elevation_deg: np.ndarray, spec: ReconstructionSpec,
    model: Model,
) -> Float[np.ndarray, "V H W 3"]:  # fmt: skip
    """A scene from given sides, at the model's resolution, with the field of view of a draft."""
    cameras = consistency.make_cameras(azimuth_deg, elevation_deg, spec.draft)
    return np.clip(pictures.render_views(state, cameras, model.config.resolution, spec)[0], 0, 1)


def figures_of(answer: np.ndarray, task: views.ViewTask, model: Model, what: str) -> dict[str, Any]:
    """Mean scores of views by `what/metric`; of the PSNR also in front, behind, and their ratio."""
    if task.truth is None:
        raise UserError("a comparison needs true views")
    each = scores.score_views(answer, task, model)
    summary = scores.summary(each, task.azimuth_deg)
    figures = {f"{what}/{k}": summary["mean"]["all"][k] for k in METRICS}
    sides = summary["isotropy"]["psnr"]
    return figures | {f"{what}/{k}": sides[k] for k in ("front", "back", "back_to_front")}
