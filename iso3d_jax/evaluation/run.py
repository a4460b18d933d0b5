"""A model, its parts or its reconstructions beside baselines: JSON, a table, a page of pictures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iso3d_jax.commands import config_files, paths
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import atomic_path, check_folder


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is scored, and how; docs/evaluation.md says what each figure is.

    Attributes:
      model: folder of a model or a part of one; the package's own if None.
      data, split: rendered data set, whose training split the baselines are from.
      images: folder of pictures to score instead of a split; no true views.
      gso: folder in the layout of SyncDreamer's evaluation.
      runs, meshes: folder of reconstructions NAME/mesh.glb, and of the true meshes NAME.ply.
      frame: of those, 'box' (each in its own box) or 'truth' (all in the true mesh's).
      preprocessing: how pictures are fitted to the frame; the model's own if None.
      look: how views are drawn, a name of `sampling.LOOKS`.
      steps: of DDIM; the look's if None.
      seed: of the noise.
      objects: so many, evenly spaced; 0 is all.
      ablate: only the one-step table of embedding and cameras.
      consistency_objects: whose cross-view consistency is measured; 0 is none.
      lpips: weights: torchvision's file and lpips' linear file.
      st_lpips: the weights' file; 'auto' takes those of stlpips-pytorch if installed; 'none'.
      sheet_objects, page_objects: rows of the contact sheet, objects on the page.
      dtype: of the networks, as of `load_model`.
      remove_background, matting_model: of `images`, as of `load_picture`.
    """

    model: str | None = None
    data: str = "samples"
    split: str = "test"
    images: str | None = None
    gso: str | None = None
    runs: str | None = None
    meshes: str | None = None
    frame: str = "box"
    preprocessing: str | None = None
    look: str = "own"
    steps: int | None = None
    seed: int = 0
    objects: int = 0
    ablate: bool = False
    consistency_objects: int = 8
    lpips: Sequence[str] | None = None
    st_lpips: str = "auto"
    sheet_objects: int = 8
    page_objects: int = 40
    dtype: str | None = None
    remove_background: str = "auto"
    matting_model: str | None = None


def evaluate(s: Evaluation, out: str | Path) -> dict[str, Any]:
    """Scores a model, its parts or its reconstructions, and writes the report.

    Args:
      out: folder for report.json, table.md, index.html and contact.png.

    Returns:
      The report, as report.json.

    Raises:
      UserError: choices that exclude each other, or what is not there.
    """
    given = [name for name in ("images", "gso", "runs") if getattr(s, name)]
    if len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]} exclude each other: evaluate them apart")
    if bool(s.runs) != bool(s.meshes):
        raise UserError("--runs and --meshes belong together: results and the true meshes")
    networks = check_paths(s)
    out = check_folder(out)
    if s.runs and s.meshes:
        report, pictures, answers = evaluate_shapes(s.runs, s.meshes, s.frame), None, None
    elif "unet" not in networks:
        report, pictures, answers = evaluate_parts(s), None, None
    else:
        report, pictures, answers = evaluate_views(s, out)
    write(s, out, report, pictures, answers)
    return report


def check_paths(s: Evaluation) -> set[str]:
    """Refuses a path that cannot be right; returns the networks that the model holds."""
    for flag, value in (("--runs", s.runs), ("--meshes", s.meshes), ("--gso", s.gso)):
        if value:
            paths.folder(flag, value)
    if s.images:
        paths.pictures("--images", s.images)
        paths.matting_model(s.matting_model)
    for file in s.lpips or ():
        paths.file("--lpips", file)
    if s.st_lpips not in ("auto", "none", ""):
        paths.file("--st_lpips", s.st_lpips)
    if s.runs:
        return set()
    paths.dataset("--data", s.data)
    return paths.model("--model", s.model)


def write(s: Evaluation, out: Path, report: dict, pictures, answers) -> None:
    """report.json, table.md and index.html; prints the tables."""
    from iso3d_jax.evaluation.report import code_facts, markdown
    from iso3d_jax.pages.evaluation_page import write_page

    report["code"] = code_facts()
    text = markdown(report)
    with atomic_path(out / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    with atomic_path(out / "table.md") as temporary:
        temporary.write_text(text)
    page = write_page(out / "index.html", report, pictures, answers, s.page_objects)
    print(text)
    print(f"{page}, report.json, table.md")


def load_perceptual(s: Evaluation) -> dict:
    """The perceptual distances whose weights are at hand, by metric."""
    from iso3d_jax.evaluation import perceptual

    found: dict[str, Any] = {}
    if s.lpips:
        found["lpips"] = perceptual.load_lpips(s.lpips)
    file = perceptual.find_st_lpips() if s.st_lpips == "auto" else s.st_lpips
    if file and file != "none":
        found["st_lpips"] = perceptual.load_st_lpips(file)
    return found


def load_task(s: Evaluation, model):
    """The task that the flags name, and facts about its data."""
    from iso3d_jax.data.table import MultiViewTable
    from iso3d_jax.evaluation import folder, gso, report, views

    config = model.config
    picture = s.preprocessing or config.picture
    if s.images:
        task, failed = folder.make_task(
            s.images, config.resolution, picture, remove_background=s.remove_background,
            matting_model=s.matting_model,
        )  # fmt: skip
        facts = {"images": s.images} | ({"left out": failed} if failed else {})
    elif s.gso:
        task = gso.make_task(s.gso, config.resolution, picture)
        facts = {"gso": s.gso}
    else:
        task = views.make_task(MultiViewTable.load(s.data, s.split), picture)
        facts = {"data set": s.data, "split": s.split}
    if s.objects:
        task = task.spaced(s.objects)
    facts |= {"pictures": picture, "objects": len(task), "views": task.azimuth_deg.shape[1]}
    return task, facts | {"digest": report.task_digest(task)}


def evaluate_views(s: Evaluation, out: Path):
    """Scores a model's views; returns the report, the pictures and the rows of views."""
    import numpy as np

    from iso3d_jax import sampling
    from iso3d_jax.core.progress import Progress
    from iso3d_jax.data.grids import tile
    from iso3d_jax.data.orthogonal_sets import SET
    from iso3d_jax.data.table import MultiViewTable
    from iso3d_jax.evaluation import scores, views
    from iso3d_jax.evaluation.report import model_facts
    from iso3d_jax.training import one_step_x0
    from iso3d_jax.weights.bundle import load_model

    model = load_model(s.model, s.dtype)
    perceptual = load_perceptual(s)
    task, facts = load_task(s, model)
    if s.ablate and task.truth is None:
        raise UserError("--ablate needs true views: give --data or --gso, not --images")
    report = {
        "title": f"Evaluation of the {model.config.name} model",
        "protocol": task.protocol,
        "model": model_facts(s.model, model.config.name),
        "data": facts,
    }
    if task.truth is not None:
        print(f"{len(task)} objects: the one-step table ...", flush=True)
        probe = one_step_x0.Probe.make(
            model, task.pictures, task.truth[:, :SET], task.azimuth_deg[:, :SET],
            task.elevation_deg[:, :SET], task.fov_deg[:, :SET], task.distance[:, :SET],
        )  # fmt: skip
        progress = Progress(len(one_step_x0.TIMESTEPS), "the one-step table", unit="noise level")
        report["ablation"] = one_step_x0.ablate(model.unet, probe, seed=s.seed, progress=progress)
        progress.close()
        if s.ablate:
            report["settings"] = {"seed": s.seed, "dtype": model.dtype}
            return report, None, None

    train = MultiViewTable.load(s.data, "train")
    if train.images.shape[2] != model.config.resolution:
        raise UserError(
            f"the data set {s.data} has pictures of {train.images.shape[2]} pixels and the "
            f"model draws {model.config.resolution}: give a data set of its size with --data"
        )
    print(f"{len(task)} objects: generating their views ...", flush=True)
    generated = views.generate(model, task, steps=s.steps, seed=s.seed, look=s.look)
    retrieved, nearest = views.retrieve(model, task, train, s.preprocessing)
    answers = {
        f"{model.config.name} model": generated,
        "nearest training object": retrieved,
        "mean training picture": np.broadcast_to(views.mean_picture(train), generated.shape),
    }
    print("scoring ...", flush=True)
    each = {n: scores.score_views(v, task, model, perceptual) for n, v in answers.items()}
    report["views"] = {n: scores.summary(s, task.azimuth_deg) for n, s in each.items()}
    used = sampling.settings(model.config, s.look, steps=s.steps)
    report["settings"] = {
        "steps": used["steps"], "spacing": used["spacing"], "seed": s.seed,
        "guidance": used["guidance_scale"], "eta": used["eta"],
        "temperature": used["temperature"], "cameras": model.config.sampling_cameras,
        "dtype": model.dtype,
    }  # fmt: skip
    report["settings"] |= {name: distance.name for name, distance in perceptual.items()}
    add_consistency(s, report, task, answers)
    report["rank_by"] = "psnr" if task.truth is not None else "embedding_to_picture"
    report["objects"] = [
        {
            "name": name,
            "nearest": nearest[i],
            "scores": {k: float(v[i].mean()) for k, v in each[next(iter(each))].items()},
            "views": {n: {k: v[i].tolist() for k, v in s.items()} for n, s in each.items()},
            "azimuth_deg": task.azimuth_deg[i].tolist(),
        }
        for i, name in enumerate(task.names)
    ]
    shown = {n: v for n, v in answers.items() if not n.startswith("mean")}
    if task.truth is not None:
        shown["true views"] = task.truth
    count = min(s.sheet_objects, len(task))
    chosen = np.linspace(0, len(task) - 1, count).astype(int)
    rows = [
        [task.pictures[i], *generated[i], *(() if task.truth is None else task.truth[i])]
        for i in chosen
    ]
    with atomic_path(out / "contact.png") as temporary:
        tile(rows, 96).save(temporary)
    return report, task.pictures, shown


def add_consistency(s: Evaluation, report: dict, task, answers: dict) -> None:
    """Adds each answer's cross-view consistency, of evenly spaced objects and their first set."""
    import numpy as np

    from iso3d_jax.data.orthogonal_sets import SET
    from iso3d_jax.evaluation import consistency
    from iso3d_jax.reconstruction.spec import make_spec

    count = min(s.consistency_objects, len(task))
    report["settings"]["consistency_objects"] = count
    if not count:
        return
    chosen = np.linspace(0, len(task) - 1, count).astype(int)
    spec = consistency.fit_spec(
        make_spec(config_files.load_config("reconstruct:tiny")),
        next(iter(answers.values())).shape[2],
    )

    def score(name, views):
        print(f"consistency of {count} objects: {name} ...", flush=True)
        angles = task.azimuth_deg[chosen, :SET], task.elevation_deg[chosen, :SET]
        return float(consistency.consistency(views[chosen, :SET], *angles, spec).mean())

    for name, views in answers.items():
        report["views"][name]["consistency"] = score(name, views)
    if task.truth is not None:
        report["consistency_of_truth"] = score("true views", task.truth)


def evaluate_parts(s: Evaluation) -> dict:
    """Scores an autoencoder or an image tower that is no whole model yet."""
    from iso3d_jax.data.table import MultiViewTable
    from iso3d_jax.evaluation import component_scores
    from iso3d_jax.evaluation.report import model_facts
    from iso3d_jax.weights.bundle import load_config

    if s.images or s.gso or s.ablate:
        raise UserError(
            f"{s.model} has no denoiser, only its parts can be scored: give --data alone"
        )
    config, table = load_config(s.model), MultiViewTable.load(s.data, s.split)
    picture = s.preprocessing or config.picture
    print(f"{len(table)} objects: what the parts of {s.model} keep of them ...", flush=True)
    return {
        "title": f"Evaluation of parts of the {config.name} model",
        "protocol": "autoencoder: views encoded and decoded again. Image tower: its decoder draws "
        "all views from the embedding of the view nearest to azimuth +30 degrees; drawings "
        f"enlarged, object where alpha exceeds {component_scores.DRAWN_ALPHA}",
        "model": model_facts(s.model, config.name),
        "data": {
            "data set": s.data, "split": s.split, "pictures": picture,
            "objects": len(table), "views": table.images.shape[1],
        },
        "parts": component_scores.score(s.model, table, picture, s.dtype),
    }  # fmt: skip


def evaluate_shapes(runs: str, meshes: str, frame: str) -> dict:
    """Scores reconstructed meshes; `Evaluation` says what the three are."""
    from iso3d_jax.evaluation import reconstructions
    from iso3d_jax.metrics import shapes, surface_points, visibility_occupancy

    means, objects, sides = reconstructions.score_runs(runs, meshes, frame=frame)
    scaled = {
        "box": "each mesh scaled to a bounding box whose longest side is 1 and centred",
        "truth": "the true mesh scaled to a bounding box whose longest side is 1 and centred, the "
        "result moved with it",
    }[frame]
    return {
        "title": "Evaluation of reconstructed meshes",
        "protocol": f"{scaled}; points seen from {surface_points.VIEWS} cameras at "
        f"{surface_points.ELEVATION_DEG:g} degrees, thinned to {surface_points.VOXEL}; "
        f"Chamfer distance (mean + mean) / 2, F-score at {shapes.F_DISTANCE}, "
        f"volumes on {shapes.GRID}^3 cubes of [-1, 1]^3, by crossings and, sealed, by "
        f"what {visibility_occupancy.DIRECTIONS} cameras see; closed truths "
        f"are those where both overlap by {shapes.CLOSED}",
        "data": {"runs": runs, "meshes": meshes, "objects": len(objects)},
        "shapes": means,
        "sides": sides,
        "objects": objects,
    }
