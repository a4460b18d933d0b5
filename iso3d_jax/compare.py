"""Trains and measures the method beside the paper's comparisons; one table, one page of pictures.

    python -m iso3d_jax.compare --out out/comparison                     tiny networks
    python -m iso3d_jax.compare --out out/comparison --seeds 1
    python -m iso3d_jax.compare --config configs/compare.py:furniture --out out/comparison

Runs: the method; without EMA; with the reference view concatenated by channels (CCR); without
stage 1; with an L2 loss at the reference view in score distillation. Each is the ordinary training
and reconstruction with another config. Writes report.json, table.md and index.html.

The same command again goes on where it was stopped. docs/evaluation.md says what is measured.
"""

import json
import sys
from pathlib import Path

from iso3d_jax.commands import command_line

flags = command_line.flags_for(__name__)

_OUT = flags.DEFINE_string("out", None, "folder for runs and results", required=True)
_SEEDS = flags.DEFINE_integer("seeds", None, "train everything so often", 1, 1000)
_RUNS = flags.DEFINE_list("runs", None, "only these: method, no_ema, ccr, no_stage1, reference_l2")
_DTYPE = flags.DEFINE_enum(*command_line.DTYPE_FLAG)
command_line.define_config_flag("compare:tiny")


def main(_argv):
    cfg = command_line.get_config()
    if _SEEDS.value:
        cfg.seeds = _SEEDS.value
    check_paths(cfg)
    from iso3d_jax.reconstruction.loop import Interrupted

    try:
        compare(cfg, _OUT.value, _RUNS.value, _DTYPE.value)
    except Interrupted as stop:
        sys.exit(128 + stop.signum)


def check_paths(cfg) -> None:
    """Refuses a path that cannot be right, before anything that takes time is loaded."""
    from iso3d_jax.commands import paths
    from iso3d_jax.core.files import check_folder

    paths.dataset("--config.data", cfg.data)
    sections = {f"stage2.{name}": cfg.stage2[name] for name in cfg.stage2}
    for name, section in {"stage1": cfg.stage1, **sections}.items():
        section = section.copy_and_resolve_references()
        section.data, section.data_encoded = "", section.data_encoded if name == "stage1" else ""
        section.init_from = ""  # the comparison's own
        paths.training(section, f"--config.{name}")
    check_folder(_OUT.value)


def compare(config, out, names=None, dtype=None) -> dict:
    """Makes what is missing of a comparison, writes its results and returns the report.

    Args:
      config: from configs/compare.py; it stays as it is.
      out: folder of the comparison, a new one or one of the same config.
      names: of the runs; all of `plan.RUNS` if None.
      dtype: what trained models are measured in, as of `load_model`; the training configs have
        their own.

    Raises:
      UserError: an unknown run, or a folder of another comparison.
      SystemExit, Interrupted: stopped; the same call goes on.
    """
    from iso3d_jax.commands.config_presets import nearest
    from iso3d_jax.core.errors import UserError
    from iso3d_jax.core.files import atomic_path, make_folder
    from iso3d_jax.evaluation.ablations import plan, report
    from iso3d_jax.evaluation.ablations.measure import Comparison
    from iso3d_jax.evaluation.report import code_facts, task_digest

    names = list(names or plan.RUNS)
    for name in names:
        if name not in plan.RUNS:
            raise UserError(f"--runs: there is no run '{name}': {nearest(name, plan.RUNS)}")
    cfg = plan.make_spec(config)
    out = make_folder(Path(out).absolute())
    plan.ensure_same_comparison(out, cfg)
    comparison = Comparison(cfg, out, lambda text: print(text, flush=True), dtype)
    figures: dict[str, list] = {name: [] for name in names}
    shown: dict[str, list] = {name: [] for name in names}
    for seed in range(cfg.seeds):
        for name in names:
            scores, pictures = comparison.measure(name, seed)
            figures[name].append(scores)
            shown[name].append(pictures)
    trainings = ["stage1", *dict.fromkeys(plan.RUNS[name].training for name in names)]
    losses = {t: [comparison.losses(t, seed) for seed in range(cfg.seeds)] for t in trainings}
    task = comparison.task
    made = report.assemble(
        figures,
        comparison.baselines(),
        losses,
        {
            "title": "The method beside the paper's comparisons",
            "protocol": task.protocol,
            "data": {
                "data set": cfg.data, "split": cfg.split, "objects": len(task),
                "views": task.azimuth_deg.shape[1], "scenes": cfg.scenes,
                "digest": task_digest(task),
            },
            "settings": {
                "seeds": cfg.seeds, "stage 1 steps": cfg.stage1.steps,
                "stage 2 steps": cfg.stage2.method.steps,
                "steps without stage 1": cfg.stage2.no_stage1.steps,
                "score distillation steps": cfg.reconstruct.steps,
                "L2 weight": cfg.reference_l2, "DDIM steps": cfg.ddim_steps,
            },
            "code": code_facts(),
        },
    )  # fmt: skip
    with atomic_path(out / "report.json") as temporary:
        temporary.write_text(json.dumps(made, indent=2) + "\n")
    text = report.markdown(made)
    with atomic_path(out / "table.md") as temporary:
        temporary.write_text(text)
    path = report.write_page(
        out / "index.html", made, task.pictures, task.truth, task.names, shown
    )  # fmt: skip
    print(text)
    print(f"{path}, report.json, table.md")
    return made


if __name__ == "__main__":
    command_line.run(main)
