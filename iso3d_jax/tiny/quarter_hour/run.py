"""The parts of the run, one after another, by the tasks and the loop that train everything else."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import atomic_path, ensure_same_folder, make_folder
from iso3d_jax.data import packed
from iso3d_jax.data.encode import encode_table
from iso3d_jax.data.table import MultiViewTable
from iso3d_jax.evaluation.report import number, table
from iso3d_jax.evaluation.run import Evaluation, evaluate
from iso3d_jax.models.params import FlatParams
from iso3d_jax.presets import quarter_hour as preset
from iso3d_jax.tiny.quarter_hour.schedule import Schedule
from iso3d_jax.tiny.tasks.image_tower import ImageTowerTask
from iso3d_jax.training.loop import Program, fit
from iso3d_jax.training.spec import StageSpec, make_spec
from iso3d_jax.training.tasks import mixtures
from iso3d_jax.training.tasks.registry import make_task
from iso3d_jax.training.tasks.stages import DenoiserTask, load_frozen
from iso3d_jax.training.tasks.task import BaseTask
from iso3d_jax.weights.exporting import export_compact
from iso3d_jax.weights.parts import write_parts
from iso3d_jax.weights.safetensors_file import open_safetensors

CHECKPOINTS = 4  # of each part
DETAILS, TABLE, SCHEDULE = "details.zip", "table.md", "schedule.json"
METRICS = {"psnr": ("PSNR", 2), "ssim": ("SSIM", 3), "mask_iou": ("mask IoU", 3)}


class Sizes(NamedTuple):
    """How far a part goes: steps that are timed, the least and the most that it may have."""

    timed: int = 60
    least: int = 100
    most: int = 1_000_000


TOY = Sizes(timed=2, least=2, most=3)


class Run:
    """A run in its two folders; `go` does what is left of it."""

    def __init__(self, data: Path, out: Path, work: Path, *, seconds: float, seed: int, toy: bool):
        """
        Args:
          data: a packed file.
          out: folder of at most eight files of 16 MB: the model in parts, its scores, what was
            chosen, and the numbers of all steps.
          work: folder of the checkpoints, as large as it takes.
          seconds: of all parts together.
          seed: of all draws.
          toy: networks that a CPU trains in seconds.

        Raises:
          UserError: no such data, or folders of another run.
        """
        self.sets = [f"{data}/{name}" for name in packed.sets_of(data)]
        size, wanted = packed.resolution_of(data), preset.model(toy).resolution
        if size != wanted:
            raise UserError(
                f"{data} has pictures of {size} pixels, and this model wants {wanted}: render the "
                f"data sets with --resolution {wanted} and pack them again"
            )
        self.data, self.out, self.work = data, make_folder(out), make_folder(work)
        self.toy, self.seed, self.sizes = toy, seed, TOY if toy else Sizes()
        facts = {"data": [data.name, data.stat().st_size], "seconds": seconds, "seed": seed,
                 "toy": toy, "out": str(self.out.absolute())}  # fmt: skip

        def refusal(found) -> str:
            key, was, now = found[0]
            return (
                f"{work} holds another run ({key} was {was}, is {now}): give another --workdir, "
                "or delete it"
            )

        ensure_same_folder(self.work / "run.json", facts, refusal)
        self.schedule = Schedule(self.work / SCHEDULE, self.out / SCHEDULE, seconds)

    def go(self) -> str:
        """Does what is left; returns the table of scores."""
        try:
            self.train("autoencoder", lambda: make_task(self.config(preset.autoencoder)))
            self.train("image_tower", self.tower)
            self.encoded: mixtures.Table | None = None
            self.train("stage1", lambda: self.stage(preset.first_stage, drawing=True))
            self.train("stage2", lambda: self.stage(preset.second_stage, init_from="stage1"))
            self.encoded = None
            self.train("decoder", self.decoder)
            return self.evaluate()
        finally:
            self.schedule.save()

    def config(self, make: Callable[[bool], Any], **changes: Any):
        """A preset's config with this run's data and seed."""
        cfg = make(self.toy)
        cfg.update(data=",".join(self.sets), seed=self.seed, **changes)
        return cfg

    def folder(self, part: str) -> str:
        return str(self.work / part)

    def tower(self) -> BaseTask:
        cfg = self.config(preset.tower, data_weights=(1.0 / len(self.sets),) * len(self.sets))
        return ImageTowerTask.from_config(cfg, read_features(self.data))

    def stage(self, make: Callable[[bool], Any], *, init_from: str = "", drawing: bool = False):
        """Stage 1 or 2 on latents in memory, which are computed once for both."""
        cfg = self.config(make, init_from=self.folder(init_from) if init_from else "")
        cfg.init.vae, cfg.init.clip = self.folder("autoencoder"), self.folder("image_tower")
        cfg.init.drawing = self.folder("image_tower") if drawing else ""
        if self.encoded is None:
            frozen = load_frozen(cfg.init.vae, cfg.init.clip, "float32")
            tables = [
                encode_table(
                    MultiViewTable.load(path, "train"), frozen.vae, frozen.clip,
                    variants=preset.VARIANTS, pictures=preset.PICTURES, label=f"encoding {path}",
                )
                for path in self.sets
            ]  # fmt: skip
            self.encoded = mixtures.mix(tables, self.sets, (1.0,) * len(tables))
        return DenoiserTask.from_spec(make_spec(StageSpec, cfg), self.encoded)

    def decoder(self) -> BaseTask:
        return make_task(self.config(preset.last_step, init_from=self.folder("stage2")))

    def train(self, part: str, make: Callable[[], Any]) -> None:
        """Trains a part, or what is left of it, and hands its result out.

        Its first steps are timed where nobody knows their speed; they are the first of the run, by
        the same program.
        """
        schedule, sizes = self.schedule, self.sizes
        if schedule.is_done(part):
            return
        began, folder, programs = time.monotonic(), self.work / part, {}
        task = make()
        print(f"{part}: ready after {time.monotonic() - began:.0f} s", flush=True)
        cfg = task.cfg
        if "steps" not in schedule.parts.get(part, {}):
            if cfg.lr_schedule == "constant":
                self._time(part, task, programs)
            steps = min(max(schedule.steps_for(part), sizes.least), sizes.most)
            schedule.note(part, steps=steps, batch_size=cfg.batch_size)
            print(f"{part}: {steps} steps of {cfg.batch_size}", flush=True)
        steps = schedule.parts[part]["steps"]
        every = -(-steps // CHECKPOINTS)
        task.cfg = dataclasses.replace(cfg, steps=steps, checkpoint_every=every)
        fit(task, folder, programs=programs)
        self.hand_out(part)
        schedule.note(part, done=True, until_seconds=round(schedule.spent(), 1))

    def _time(self, part: str, task: Any, programs: dict[str, Program]) -> None:
        """Runs the first steps, and notes their speed and what came before it."""
        began, timed = time.monotonic(), self.sizes.timed
        task.cfg = dataclasses.replace(task.cfg, steps=timed, checkpoint_every=timed)
        fit(task, self.work / part, programs=programs)
        lines = (self.work / part / "metrics.jsonl").read_text().splitlines()
        rate = json.loads(lines[-1])["steps_per_second"]
        compiling = max(0.0, time.monotonic() - began - timed / rate)
        self.schedule.note(
            part, steps_per_second=round(rate, 4), compile_seconds=round(compiling, 2)
        )

    def hand_out(self, part: str) -> None:
        """Writes what there is into the small folder: after stage 1 there is a whole model."""
        if part in ("stage1", "stage2", "decoder"):
            export_compact(self.work / part, self.work / "compact")
            write_parts(self.work / "compact", self.out)
        self.write_details()

    def write_details(self) -> None:
        """The numbers of all steps and the reports, as one file."""
        found = [
            *self.work.glob("log.txt"),  # of launch/quarter_hour.sh
            *self.work.glob("*/metrics.jsonl"),
            *self.work.glob("evaluation_*/report.json"),
            *self.work.glob("evaluation_*/table.md"),
            *self.work.glob("evaluation_*/contact.png"),
        ]
        with atomic_path(self.out / DETAILS) as temporary:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as zipped:
                for file in sorted(found):
                    zipped.write(file, str(file.relative_to(self.work)))

    def evaluate(self) -> str:
        """Scores what was handed out on as many held-out objects of each set."""
        if self.schedule.is_done("evaluation"):
            return (self.out / TABLE).read_text()
        places = [packed.Place(self.data, name) for name in packed.sets_of(self.data)]
        count = min(len(packed.read_facts(place)["test"]) for place in places)
        reports = {}
        for path, (_, name) in zip(self.sets, places, strict=True):
            asked = Evaluation(
                model=str(self.work / "compact"), data=path, objects=count, seed=self.seed,
                consistency_objects=0, st_lpips="none",
            )  # fmt: skip
            reports[name] = evaluate(asked, self.work / f"evaluation_{name}")
        text = side_by_side(reports)
        with atomic_path(self.out / TABLE) as temporary:
            temporary.write_text(text)
        self.write_details()
        spent = round(self.schedule.spent(), 1)
        self.schedule.note("evaluation", done=True, until_seconds=spent)
        return text


def read_features(data: Path) -> FlatParams:
    """Weights of the network that the image tower sees pictures with, float32."""
    with packed.open_file(data) as file, tempfile.TemporaryDirectory() as folder:
        stored = open_safetensors(Path(file.extract(packed.FEATURES, folder)))
        return {
            path: jnp.asarray(np.asarray(weight.read(), np.float32))
            for path, weight in stored.items()
        }


def side_by_side(reports: dict[str, dict[str, Any]]) -> str:
    """Scores of each set beside each other, as a Markdown table."""
    answers = list(next(iter(reports.values()))["views"])
    head = ["answer", *(f"{name}: {METRICS[m][0]}" for name in reports for m in METRICS)]
    rows = [
        [
            answer,
            *(
                number(report["views"][answer]["mean"]["all"][metric], METRICS[metric][1])
                for report in reports.values()
                for metric in METRICS
            ),
        ]
        for answer in answers
    ]
    facts = [f"{name}: {r['data']['objects']} held-out objects" for name, r in reports.items()]
    prepared = next(iter(reports.values()))["data"]["pictures"]
    return f"{'; '.join(facts)}; pictures {prepared}.\n\n{table(head, rows)}"


def run(
    data: str | Path, out: str | Path, work: str | Path, *, seconds: float = 600.0, seed: int = 0,
    toy: bool = False,
) -> str:  # fmt: skip
    """Trains and scores a model; the same call goes on with a run that was killed.

    Args, errors: see `Run`.

    Returns:
      The table of scores.
    """
    job = Run(Path(data), Path(out), Path(work), seconds=seconds, seed=seed, toy=toy)
    text = job.go()
    print(f"{job.schedule.spent():.0f} s of {seconds:g}; the model's parts and scores are in {out}")
    sys.stdout.flush()
    return text
