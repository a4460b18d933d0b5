"""Scores a model's views on a data set's test split, beside two baselines.

    python -m iso3d_jax.evaluate --data DIR --out out/evaluation

Writes report.json, table.md and contact.png (picture | generated views | true views).
"""

import json
from pathlib import Path

from iso3d_jax import command_line

flags = command_line.flags_for(__name__)

_MODEL = flags.DEFINE_string("model", None, "model folder; the package's own if left out")
_DATA = flags.DEFINE_string("data", "samples", "rendered data set; 'samples' is the shipped one")
_SPLIT = flags.DEFINE_string("split", "test", "train, validation or test")
_OUT = flags.DEFINE_string("out", None, "folder for the report", required=True)
_STEPS = flags.DEFINE_integer("steps", 50, "DDIM steps", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "of the noise")
_OBJECTS = flags.DEFINE_integer("sheet_objects", 8, "rows of the contact sheet", lower_bound=1)


def main(_argv):
    import numpy as np

    from iso3d_jax.data.grids import tile
    from iso3d_jax.data.table import MultiViewTable
    from iso3d_jax.evaluation import views
    from iso3d_jax.files import atomic_path, make_folder
    from iso3d_jax.weights.bundle import load_model

    model = load_model(_MODEL.value)
    table, train = (MultiViewTable.load(_DATA.value, s) for s in (_SPLIT.value, "train"))
    out = make_folder(_OUT.value)
    task = views.make_task(table, model.config.picture)
    print(f"{len(task.names)} objects: drawing their views ...", flush=True)
    generated = views.generate(model, task, steps=_STEPS.value, seed=_SEED.value)
    print("looking for the nearest training objects ...", flush=True)
    retrieved, nearest = views.retrieve(model, task, train)
    mean = np.broadcast_to(views.mean_picture(train), task.truth.shape)
    rows = {
        f"{model.config.name} model": views.scores(generated, task),
        "nearest training object": views.scores(retrieved, task),
        "mean training picture": views.scores(mean, task),
    }
    swaps = views.swap_table(model, task)
    table_text = markdown(rows, swaps)
    decibels = views.psnr(generated, task.truth).mean(1)
    report = {
        "model": _MODEL.value or "shipped", "data": _DATA.value, "split": _SPLIT.value,
        "objects": len(task.names), "steps": _STEPS.value, "seed": _SEED.value,
        "scores": rows, "one_step_x0_db": swaps,
        "per_object": [
            {"name": n, "psnr": float(p), "nearest": m}
            for n, p, m in zip(task.names, decibels, nearest, strict=True)
        ],
    }  # fmt: skip
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "table.md").write_text(table_text)
    count = min(_OBJECTS.value, len(task.names))
    chosen = np.linspace(0, len(task.names) - 1, count).astype(int)
    sheet = tile([[task.pictures[i], *generated[i], *task.truth[i]] for i in chosen], 96)
    with atomic_path(Path(out) / "contact.png") as temporary:
        sheet.save(temporary)
    print(table_text)
    print(f"{out}: report.json, table.md, contact.png")


def markdown(rows: dict, swaps: dict) -> str:
    """Both tables as Markdown."""
    keys = list(next(iter(rows.values())))
    lines = ["| views of | " + " | ".join(keys) + " |", "| --- |" + " --- |" * len(keys)]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[k]:.2f}" for k in keys) + " |")
    lines += ["", "| one-step x0 at t = 0.98, latents | dB |", "| --- | --- |"]
    lines += [f"| {name} | {value:.2f} |" for name, value in swaps.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    command_line.run(main)
