"""Scores a model beside two baselines, with JSON, a Markdown table and a page of pictures.

    python -m iso3d_jax.evaluate --data DIR --out out/evaluation           a data set's test split
    python -m iso3d_jax.evaluate --images DIR --out out/evaluation         pictures, no true views
    python -m iso3d_jax.evaluate --gso DIR --out out/evaluation            Google Scanned Objects
    python -m iso3d_jax.evaluate --data DIR --ablate --out out/ablation    what the model looks at
    python -m iso3d_jax.evaluate --runs DIR --meshes DIR --out out/shapes  reconstructed meshes
    python -m iso3d_jax.evaluate --data DIR --model runs/image_tower --out out/tower
                                                              an image tower or an autoencoder alone

Writes report.json, table.md, index.html (open it in a browser) and contact.png. docs/evaluation.md
says what each figure is, to the digit.
"""

import json
from pathlib import Path

from iso3d_jax import command_line, config_files, paths
from iso3d_jax.config_checks import SPLITS

flags = command_line.flags_for(__name__)

_MODEL = flags.DEFINE_string("model", None, "model folder; the package's own if left out")
_DATA = flags.DEFINE_string(
    "data", "samples", "rendered data set; 'samples' is the shipped one. Baselines are from its "
    "training split, also with --images and --gso",
)  # fmt: skip
_SPLIT = flags.DEFINE_enum("split", "test", SPLITS, "the part of the data set")
_IMAGES = flags.DEFINE_string("images", None, "folder of pictures to score instead of a split")
_GSO = flags.DEFINE_string("gso", None, "folder in the layout of SyncDreamer's evaluation")
_RUNS = flags.DEFINE_string("runs", None, "folder of reconstructions, NAME/mesh.glb, to score")
_MESHES = flags.DEFINE_string("meshes", None, "folder of the true meshes for --runs, NAME.ply")
_FRAME = flags.DEFINE_enum(
    "frame", "box", ["box", "truth"],
    "with --runs: each mesh scaled and centred by its own box, or all by the true mesh's, for "
    "pictures that kept their framing",
)  # fmt: skip
_OUT = flags.DEFINE_string("out", None, "folder for the report", required=True)
_PREPARE = flags.DEFINE_enum(
    "prepare", None, ["centred", "framed", "launch", "i2i"],
    "how pictures are fitted to the frame; the model's own if left out",
)  # fmt: skip
_STEPS = flags.DEFINE_integer(
    "steps", None, "DDIM steps; the model's own number if left out", 1, 999
)
_SEED = flags.DEFINE_integer("seed", 0, "of the noise", 0, command_line.MOST)
_COUNT = flags.DEFINE_integer(
    "objects", 0, "so many objects, evenly spaced; 0: all", 0, command_line.MOST
)
_ABLATE = flags.DEFINE_bool("ablate", False, "only the ablation of embedding and cameras")
_CONSISTENCY = flags.DEFINE_integer(
    "consistency_objects", 8, "objects whose cross-view consistency is measured; 0: none",
    0, command_line.MOST,
)  # fmt: skip
_LPIPS = flags.DEFINE_list(
    "lpips", None, "weights for LPIPS: torchvision's alexnet or vgg16 file and lpips' linear file"
)
_ST_LPIPS = flags.DEFINE_string(
    "st_lpips", "auto", "ST-LPIPS: the weights' file; 'auto' takes those of the package "
    "stlpips-pytorch where it is installed; 'none'",
)  # fmt: skip
_OBJECTS = flags.DEFINE_integer("sheet_objects", 8, "rows of the contact sheet", 1, 1000)
_PAGE = flags.DEFINE_integer(
    "page_objects", 40, "objects on the page: half the best, half the worst", 1, command_line.MOST
)
_DTYPE = flags.DEFINE_enum(*command_line.DTYPE_FLAG)


def main(_argv):
    from iso3d_jax.errors import UserError
    from iso3d_jax.files import make_folder

    given = [n for n, v in (("images", _IMAGES), ("gso", _GSO), ("runs", _RUNS)) if v.value]
    if len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]} exclude each other: evaluate them apart")
    if bool(_RUNS.value) != bool(_MESHES.value):
        raise UserError("--runs and --meshes belong together: results and the true meshes")
    networks = check_paths()
    out = make_folder(_OUT.value)
    if _RUNS.value:
        report, pictures, answers = evaluate_shapes(), None, None
    elif "unet" not in networks:
        report, pictures, answers = evaluate_parts(), None, None
    else:
        report, pictures, answers = evaluate_views(out)
    write(out, report, pictures, answers)


def check_paths() -> set[str]:
    """Refuses a path that cannot be right; returns the networks that the model holds."""
    for flag, value in (("--runs", _RUNS), ("--meshes", _MESHES), ("--gso", _GSO)):
        if value.value:
            paths.folder(flag, value.value)
    if _IMAGES.value:
        paths.pictures("--images", _IMAGES.value)
    for file in _LPIPS.value or ():
        paths.file("--lpips", file)
    if _ST_LPIPS.value not in ("auto", "none", ""):
        paths.file("--st_lpips", _ST_LPIPS.value)
    if _RUNS.value:
        return set()
    paths.dataset("--data", _DATA.value)
    return paths.model("--model", _MODEL.value)


def write(out: Path, report: dict, pictures, answers) -> None:
    """report.json, table.md and index.html; prints the tables."""
    from iso3d_jax.evaluation.page import write_page
    from iso3d_jax.evaluation.report import code_facts, markdown
    from iso3d_jax.files import atomic_path

    report["code"] = code_facts()
    text = markdown(report)
    with atomic_path(out / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    with atomic_path(out / "table.md") as temporary:
        temporary.write_text(text)
    page = write_page(out / "index.html", report, pictures, answers, _PAGE.value)
    print(text)
    print(f"{page}, report.json, table.md")


def load_perceptual() -> dict:
    """The perceptual distances whose weights are at hand, by metric."""
    from iso3d_jax.evaluation import lpips, st_lpips

    found = {"lpips": lpips.load(_LPIPS.value)} if _LPIPS.value else {}
    file = st_lpips.find() if _ST_LPIPS.value == "auto" else _ST_LPIPS.value
    if file and file != "none":
        found["st_lpips"] = st_lpips.load(file)
    return found


def load_task(model):
    """The task that the flags name, and facts about its data."""
    from iso3d_jax.data.table import MultiViewTable
    from iso3d_jax.evaluation import folder, gso, report, views

    config = model.config
    picture = _PREPARE.value or config.picture
    if _IMAGES.value:
        task = folder.make_task(_IMAGES.value, config.resolution, picture)
        facts = {"images": _IMAGES.value}
    elif _GSO.value:
        task = gso.make_task(_GSO.value, config.resolution, picture)
        facts = {"gso": _GSO.value}
    else:
        task = views.make_task(MultiViewTable.load(_DATA.value, _SPLIT.value), picture)
        facts = {"data set": _DATA.value, "split": _SPLIT.value}
    if _COUNT.value:
        task = task.spaced(_COUNT.value)
    facts |= {"pictures": picture, "objects": len(task), "views": task.azimuth_deg.shape[1]}
    return task, facts | {"digest": report.task_digest(task)}


def evaluate_views(out: Path):
    """Scores a model's views; returns the report, the pictures and the rows of views."""
    import numpy as np

    from iso3d_jax import sampling
    from iso3d_jax.data.grids import tile
    from iso3d_jax.data.table import SET, MultiViewTable
    from iso3d_jax.errors import UserError
    from iso3d_jax.evaluation import ablation, scores, views
    from iso3d_jax.evaluation.report import model_facts
    from iso3d_jax.files import atomic_path
    from iso3d_jax.progress import Progress
    from iso3d_jax.weights.bundle import load_model
    from iso3d_jax.weights.facts import sampling_camera_encoding

    model = load_model(_MODEL.value, _DTYPE.value)
    perceptual = load_perceptual()
    task, facts = load_task(model)
    if _ABLATE.value and task.truth is None:
        raise UserError("--ablate needs true views: give --data or --gso, not --images")
    report = {
        "title": f"Evaluation of the {model.config.name} model",
        "protocol": task.protocol,
        "model": model_facts(_MODEL.value, model.config.name),
        "data": facts,
    }
    if task.truth is not None:
        print(f"{len(task)} objects: the one-step table ...", flush=True)
        probe = ablation.Probe.make(
            model, task.pictures, task.truth[:, :SET], task.azimuth_deg[:, :SET],
            task.elevation_deg[:, :SET],
        )  # fmt: skip
        progress = Progress(len(ablation.TIMESTEPS), "the one-step table", unit="noise level")
        report["ablation"] = ablation.ablate(model.unet, probe, seed=_SEED.value, progress=progress)
        progress.close()
        if _ABLATE.value:
            report["settings"] = {"seed": _SEED.value, "dtype": model.dtype}
            return report, None, None

    train = MultiViewTable.load(_DATA.value, "train")
    if train.images.shape[2] != model.config.resolution:
        raise UserError(
            f"the data set {_DATA.value} has pictures of {train.images.shape[2]} pixels and the "
            f"model draws {model.config.resolution}: give a data set of its size with --data"
        )
    print(f"{len(task)} objects: drawing their views ...", flush=True)
    generated = views.generate(model, task, steps=_STEPS.value, seed=_SEED.value)
    print("looking for the nearest training objects ...", flush=True)
    retrieved, nearest = views.retrieve(model, task, train, _PREPARE.value)
    answers = {
        f"{model.config.name} model": generated,
        "nearest training object": retrieved,
        "mean training picture": np.broadcast_to(views.mean_picture(train), generated.shape),
    }
    print("scoring ...", flush=True)
    each = {n: scores.score_views(v, task, model, perceptual) for n, v in answers.items()}
    report["views"] = {n: scores.summary(s, task.azimuth_deg) for n, s in each.items()}
    used = sampling.settings(model.config, steps=_STEPS.value)
    report["settings"] = {
        "steps": used["steps"], "spacing": used["spacing"], "seed": _SEED.value,
        "guidance": used["guidance_scale"], "eta": used["eta"],
        "temperature": used["temperature"], "cameras": sampling_camera_encoding(model.config),
        "dtype": model.dtype,
    }  # fmt: skip
    report["settings"] |= {name: distance.name for name, distance in perceptual.items()}
    consistency_of(report, task, answers)
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
    count = min(_OBJECTS.value, len(task))
    chosen = np.linspace(0, len(task) - 1, count).astype(int)
    rows = [
        [task.pictures[i], *generated[i], *(() if task.truth is None else task.truth[i])]
        for i in chosen
    ]
    with atomic_path(out / "contact.png") as temporary:
        tile(rows, 96).save(temporary)
    return report, task.pictures, shown


def consistency_of(report: dict, task, answers: dict) -> None:
    """Adds each answer's cross-view consistency, of evenly spaced objects and their first set."""
    import numpy as np

    from iso3d_jax.data.table import SET
    from iso3d_jax.evaluation import consistency

    count = min(_CONSISTENCY.value, len(task))
    report["settings"]["consistency_objects"] = count
    if not count:
        return
    chosen = np.linspace(0, len(task) - 1, count).astype(int)
    cfg = consistency.fit_config(
        config_files.load_config("reconstruct:tiny"),
        next(iter(answers.values())).shape[2],
    )

    def score(name, views):
        print(f"consistency of {count} objects: {name} ...", flush=True)
        angles = task.azimuth_deg[chosen, :SET], task.elevation_deg[chosen, :SET]
        return float(consistency.consistency(views[chosen, :SET], *angles, cfg).mean())

    for name, views in answers.items():
        report["views"][name]["consistency"] = score(name, views)
    if task.truth is not None:
        report["consistency_of_truth"] = score("true views", task.truth)


def evaluate_parts() -> dict:
    """Scores an autoencoder or an image tower that is no whole model yet."""
    from iso3d_jax.data.table import MultiViewTable
    from iso3d_jax.errors import UserError
    from iso3d_jax.evaluation import parts
    from iso3d_jax.evaluation.report import model_facts
    from iso3d_jax.weights.bundle import load_config

    if _IMAGES.value or _GSO.value or _ABLATE.value:
        raise UserError(
            f"{_MODEL.value} has no denoiser, only its parts can be scored: give --data alone"
        )
    config, table = load_config(_MODEL.value), MultiViewTable.load(_DATA.value, _SPLIT.value)
    picture = _PREPARE.value or config.picture
    print(f"{len(table)} objects: what the parts of {_MODEL.value} keep of them ...", flush=True)
    return {
        "title": f"Evaluation of parts of the {config.name} model",
        "protocol": "autoencoder: views encoded and decoded again. Image tower: its decoder draws "
        "all views from the embedding of the view nearest to azimuth +30 degrees; drawings "
        f"enlarged, object where alpha exceeds {parts.DRAWN_ALPHA}",
        "model": model_facts(_MODEL.value, config.name),
        "data": {
            "data set": _DATA.value, "split": _SPLIT.value, "pictures": picture,
            "objects": len(table), "views": table.images.shape[1],
        },
        "parts": parts.score(_MODEL.value, table, picture, _DTYPE.value),
    }  # fmt: skip


def evaluate_shapes() -> dict:
    """Scores reconstructed meshes."""
    from iso3d_jax.evaluation import reconstructions, sealed, shapes, visible

    means, objects, sides = reconstructions.score_runs(
        _RUNS.value, _MESHES.value, frame=_FRAME.value
    )
    scaled = {
        "box": "each mesh scaled to a bounding box whose longest side is 1 and centred",
        "truth": "the true mesh scaled to a bounding box whose longest side is 1 and centred, the "
        "result moved with it",
    }[_FRAME.value]
    return {
        "title": "Evaluation of reconstructed meshes",
        "protocol": f"{scaled}; points seen from {visible.VIEWS} cameras at "
        f"{visible.ELEVATION_DEG:g} degrees, thinned to {visible.VOXEL}; Chamfer distance "
        f"(mean + mean) / 2, F-score at {shapes.F_DISTANCE}, volumes on {shapes.GRID}^3 cubes of "
        f"[-1, 1]^3, by crossings and, sealed, by what {sealed.DIRECTIONS} cameras see; closed "
        f"truths are those where both overlap by {shapes.CLOSED}",
        "data": {"runs": _RUNS.value, "meshes": _MESHES.value, "objects": len(objects)},
        "shapes": means,
        "sides": sides,
        "objects": objects,
    }


if __name__ == "__main__":
    command_line.run(main)
