"""A whole reconstruction: views first, then the scene, then the files that people open.

What lies in the run's folder afterwards:

    input.png        the picture                  views.png, views.npz   the sampled views
    previews/*.png   the scene while it grows     state.npz              to go on, to export again
    index.html       all of it, from the run's beginning on (pages/live_page.py, run_page.py)
    turntable.mp4    colour, normals, opacity     mesh.glb               the textured mesh
                     (.webp without ffmpeg)
    contact_sheet.png  all on one sheet           report.json  seed, versions, times, memory, losses
    transforms.json, views/*.png  the views with their cameras, for others and for `--views`

A run from given pictures with cameras (`fit_pictures`) has pictures.npz instead of input.png and
views.npz; all else is alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from iso3d_jax import sampling
from iso3d_jax.core import memory
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import Difference, FolderLock, atomic_path, ensure_same_run, make_folder
from iso3d_jax.core.images import to_uint8
from iso3d_jax.core.progress import Progress, Steps, duration
from iso3d_jax.data import grids
from iso3d_jax.data.posed_pictures import PosedPictures, write_transforms
from iso3d_jax.geometry import camera_sets
from iso3d_jax.mesh.files import FileOptions
from iso3d_jax.reconstruction import (
    loop,
    parallel,
    pictures,
    settings,
    state,
    surface,
    turntable_file,
)
from iso3d_jax.reconstruction.init import draft
from iso3d_jax.reconstruction.losses import Denoiser, DenoiserSpec, Pictures, white_mask
from iso3d_jax.reconstruction.report_file import provenance
from iso3d_jax.reconstruction.result import Reconstruction, first_views
from iso3d_jax.reconstruction.spec import ReconstructionSpec
from iso3d_jax.reconstruction.state import State
from iso3d_jax.views import Views

PACKAGES = ("iso3d_jax", "jax", "jaxlib", "flax", "optax", "numpy", "trimesh", "xatlas",
            "fast-simplification")  # fmt: skip

OTHER_FILES = 50_000_000  # bytes: pictures, video, mesh and page, generously
# Told iterations done and in all, and a picture [H, W, 3] or None; False stops the run.
OnStep: TypeAlias = Callable[[int, int, np.ndarray | None], object]

SHOWN_SETS = 3  # of views, in views.png; the others are much the same, from between


def make_denoiser(
    model, prepared: np.ndarray, device_mesh: Mesh | None = None
) -> tuple[Denoiser, DenoiserSpec]:
    """A model and a prepared picture as the guidance wants them.

    Args:
      prepared: [H, W, 3] in [0, 1] on white, from `sampling.prepare_all`.
      device_mesh: of the devices that share the scene.

    Raises:
      UserError: the model's networks do not fit each other.
    """
    c = model.config
    image = jax.ShapeDtypeStruct((1, c.resolution, c.resolution, 3), jnp.float32)
    latent = jax.eval_shape(lambda vae, x: vae.encode(x)[0], model.vae, image).shape[1:]
    if latent != c.latent_shape:
        raise UserError(
            f"the model does not fit together: its autoencoder turns {c.resolution}x{c.resolution} "
            f"pixels into latents of {latent}, its config says {c.latent_shape}"
        )
    context = sampling.embed_pictures(model, prepared[None])
    denoiser_spec = DenoiserSpec(
        c.resolution, float(c.scale_factor), c.parameterization, c.cameras, device_mesh
    )
    denoiser = Denoiser(
        sampling.network_for(model, prepared), model.vae, context,
        jnp.asarray(model.alphas_cumprod), jnp.asarray(prepared, jnp.float32),
        white_mask(jnp.asarray(prepared, jnp.float32)),
    )  # fmt: skip
    return denoiser, denoiser_spec


def reconstruct(
    model, picture: np.ndarray, out: str | Path, spec: ReconstructionSpec, *,
    model_id: str = "", init: str | Path | None = None,
    programs: dict[str, loop.Programs] | None = None, views: Views | None = None,
    on_step: OnStep | None = None, on_begin: Callable[[], object] | None = None,
) -> Reconstruction:  # fmt: skip
    """Makes a 3D object from one picture, or goes on where the same call was stopped.

    Args:
      model: from `load_model`.
      picture: RGBA uint8 [H, W, 4].
      out: the run's folder.
      spec: from `reconstruction.spec.make_spec`.
      model_id: says which weights these are; a folder of another model is refused.
      init: 'none', 'views' (a draft from the sampled views), or the folder of another run;
        the spec's choice if None.
      programs: compiled programs that calls with the same model and spec share; filled here.
      views: the first set of views, which is not drawn then; of the cameras of
        `spec.draft.sets[0]`.
      on_step: called as `on_step(step, total, preview)` after every dispatch, first with step 0 and
        the sheet of the views; `preview` is a picture [H, W, 3], uint8, or None. The run stops
        where it returns False.
      on_begin: called once the folder is known to be this run's, before anything is written there.

    Raises:
      UserError: a folder of another run or in another process's hands, an empty surface, no finite
        loss in many iterations in a row, a full disk.
      loop.Interrupted: stopped; the state is saved.
    """
    with FolderLock(make_folder(out)):
        return _reconstruct(
            model, picture, Path(out), spec, model_id, init, programs, views, on_step, on_begin
        )


class _Laps:
    """Seconds by part of a run, each since the one before."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._start = time.monotonic()

    def __call__(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = round(now - self._start, 2)
        self._start = now


def _reconstruct(
    model, picture, out: Path, spec: ReconstructionSpec, model_id, init, programs, given, on_step,
    on_begin,
) -> Reconstruction:  # fmt: skip
    init, lap = spec.init if init is None else init, _Laps()
    device_mesh = parallel.mesh_for(spec, jax.local_devices())
    metadata = run_metadata(model, picture, spec, model_id, init)
    _check_disk(out, spec)
    resumed = _check_same_run(out, metadata, spec)
    begun = resumed or draft.is_begun(out)
    if begun and not resumed:
        of_draft = draft.draft_spec(spec, model.config.resolution)
        _check_same_run(out / draft.FOLDER, metadata | {"config": of_draft.to_dict()}, of_draft)
    if on_begin is not None:
        on_begin()
    (prepared,) = sampling.prepare_all(model, [picture], spec.picture or None)
    denoiser, denoiser_spec = make_denoiser(model, prepared, device_mesh)
    views = _sample_views(model, picture, prepared, out, spec, begun, given)
    lap("views")
    if not resumed:
        print(f"views: {out / 'views.png'} (drawn before the 3D starts: does this look right?)")

    main = draft.draft_spec(spec, denoiser_spec.resolution) if spec.mode == "views" else spec
    fit = draft.make_source(views, spec)
    phase_seconds = {}
    drafted = spec.draft.steps if spec.mode == "sds" and init == "views" else 0
    begin = round(spec.init_skip * spec.steps) if drafted or init not in ("none", "views") else 0
    begin = 0 if spec.mode == "views" else begin
    total = drafted + main.steps - begin
    watch = _watcher(on_step, 0, total)
    if watch is not None and watch(0, _make_sheet(prepared, views)) is False:
        raise loop.Interrupted(signal.SIGINT)
    if resumed:
        current = state.load(out, main)
        metadata = loop.go_on(out, metadata, current, main.steps)
    elif spec.mode == "sds" and init == "views":
        current, phase_seconds, metadata["draft"] = draft.fit(
            fit, spec, denoiser_spec, out, metadata, programs, on_step=watch,
            preview=_previewer(out, spec, denoiser_spec.resolution, "draft_"),
        )  # fmt: skip
        current = draft.begin_from(current, spec)
    elif spec.mode == "sds" and init != "none":
        theirs = state.load_spec(init)
        if theirs.field != spec.field:
            raise UserError(f"--init {init}: that scene has another size, see config.field")
        theirs = dataclasses.replace(theirs, mode="sds")
        current = draft.begin_from(state.load(init, theirs), spec)
    else:
        current = state.start(main)
    lap("draft")

    def hull():  # carved for the draft's own loss already, where it has one
        return draft.sampled_hull(views, spec) if fit.hull is None else fit.hull

    current, report = _finish(
        out, spec, main, denoiser_spec, current, denoiser if spec.mode == "sds" else fit, metadata,
        lap, phase_seconds=phase_seconds, hull=hull, shown=(prepared, views[0]), programs=programs,
        on_step=_watcher(on_step, drafted - begin, total),
    )  # fmt: skip
    return Reconstruction(
        out, first_views(views, spec, picture, prepared), views, current, spec, report
    )


def fit_pictures(
    posed: PosedPictures, out: str | Path, spec: ReconstructionSpec, *, framing: str = "",
    programs: dict[str, loop.Programs] | None = None, on_step: OnStep | None = None,
    on_begin: Callable[[], object] | None = None,
) -> Reconstruction:  # fmt: skip
    """Makes a 3D object from pictures with cameras, by no model; goes on where it was stopped.

    Args:
      posed: with the object in the scene, see `init.framing.fit_to_scene`.
      out: the run's folder.
      spec: of mode 'views'.
      framing: how the cameras were moved, for the report.
      programs, on_step, on_begin: as of `reconstruct`.

    Raises:
      UserError, loop.Interrupted: as of `reconstruct`.
    """
    if spec.mode != "views":
        raise ValueError(f"pictures are fitted in mode 'views', not '{spec.mode}'")
    with FolderLock(make_folder(out)):
        return _fit_pictures(posed, Path(out), spec, framing, programs, on_step, on_begin)


def _fit_pictures(
    posed: PosedPictures, out: Path, spec: ReconstructionSpec, framing, programs, on_step, on_begin
) -> Reconstruction:
    lap = _Laps()
    denoiser_spec = draft.fit_alone(posed.side, parallel.mesh_for(spec, jax.local_devices()))
    main = draft.draft_spec(spec, posed.side)
    metadata = given_metadata(posed, spec, framing)
    _check_disk(out, spec)
    resumed = _check_same_run(out, metadata, spec)
    if on_begin is not None:
        on_begin()
    if not resumed:
        posed.save_arrays(out / draft.GIVEN)
        posed.save(out)
    index = _some(len(posed))
    views = posed.on_white()
    sheet = grids.tile([list(views[index])], max(128, posed.side))
    with atomic_path(out / "views.png") as temporary:
        sheet.save(temporary)
    lap("views")
    watch = _watcher(on_step, 0, main.steps)
    if watch is not None and watch(0, np.asarray(sheet)) is False:
        raise loop.Interrupted(signal.SIGINT)
    current = state.start(main)
    if resumed:
        current = state.load(out, main)
        metadata = loop.go_on(out, metadata, current, main.steps)
    source = draft.given_source(posed, spec)
    lap("draft")

    def hull():
        return draft.given_hull(posed, spec) if source.hull is None else source.hull

    def again(current: State) -> dict:
        cameras = draft.given_cameras(posed)
        part = camera_sets.Poses(cameras.c2w[index], cameras.fov_deg[index])
        level, _ = pictures.seen_again(current, views[index], part, main, posed.seen[index])
        return {"given": metadata["given"] | {"psnr_db": level, "of_pictures": len(index)}}

    current, report = _finish(
        out, spec, main, denoiser_spec, current, source, metadata, lap, phase_seconds={},
        hull=hull, shown=(None, views[index]), programs=programs, on_step=watch, measure=again,
    )  # fmt: skip
    return Reconstruction(out, posed, views[None], current, spec, report)


def _some(count: int, most: int = 8) -> np.ndarray:
    """Indices of at most so many pictures, evenly among all."""
    return np.unique(np.round(np.linspace(0, count - 1, min(count, most))).astype(int))


def _finish(
    out: Path, spec: ReconstructionSpec, main: ReconstructionSpec, denoiser_spec: DenoiserSpec,
    current: State, source: Denoiser | Pictures, metadata: dict, lap: _Laps, *,
    phase_seconds: dict, hull: Callable[[], jax.Array],
    shown: tuple[np.ndarray | None, np.ndarray], programs, on_step,
    measure: Callable[[State], dict] | None = None,
) -> tuple[State, dict]:  # fmt: skip
    """Optimises what is left, and writes turntable, sheet, mesh and report.

    Args:
      main: the spec of the iterations.
      lap: holds the seconds until now.
      phase_seconds: of an optimisation before this one.
      hull: of the views, for the surface.
      shown: the prepared picture or None, and views [V, H, W, 3], for the sheet.
      measure: more for the report, from the scene as optimised.

    Returns:
      The last state, and the report.
    """
    current, history, times = loop.optimize(
        current, source, main, denoiser_spec, out, metadata,
        label="score distillation" if spec.mode == "sds" else "draft from views",
        preview=_previewer(out, spec, denoiser_spec.resolution), programs=programs,
        on_step=on_step,
    )  # fmt: skip
    lap("optimisation")
    phase_seconds |= {k: round(v, 2) for k, v in times.items()}
    steps = Steps("surface")
    steps("choosing the density on it", 0, 0)
    threshold, alike = surface.choose_surface(
        current, spec, hull() if draft.wants_hull(spec) else None
    )
    steps.close()
    sharp = surface.sharpen(current, spec, threshold)
    turn = pictures.all_round(sharp, spec, spec.video.frames, "turntable")
    shown_in = turntable_file.place(out)
    turntable_file.write(shown_in, turn, spec.video.seconds)
    if shown_in.suffix != ".mp4":
        print(f"no ffmpeg is here: the turntable is {shown_in.name}, as a picture that moves")
    pictures.contact_sheet(out / "contact_sheet.png", *shown, turn)
    lap("turntable")
    options = FileOptions(facts=provenance(metadata))
    facts = alike | surface.write_mesh(
        out / "mesh.glb", current, spec, threshold, turn=turn, options=options
    )
    lap("mesh")
    report = _report(metadata, history, current, lap.seconds, phase_seconds, facts, spec)
    report |= {"turntable": shown_in.name} | ({} if measure is None else measure(current))
    report = json.loads(json.dumps(report))  # as whoever reads the file has it
    with atomic_path(out / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    total = duration(sum(lap.seconds.values()))
    print(
        f"wrote {out}/mesh.glb ({facts['faces']} faces, density threshold "
        f"{facts['threshold']:.3g}; beside the scene {facts['psnr_db']:.1f} dB, mask IoU "
        f"{facts['mask_iou']:.3f}), {shown_in.name}, contact_sheet.png, report.json in {total}"
    )
    return current, report


def _previewer(
    out: Path, spec: ReconstructionSpec, resolution: int, prefix: str = ""
) -> Callable[[State, int], np.ndarray]:
    """What makes the pictures of the scene while it grows, in the run's `previews`.

    Args:
      resolution: the model's, or that of the pictures.
      prefix: of the files' names.
    """
    previews = make_folder(out / "previews")
    side = min(2 * resolution, spec.video.resolution)

    def preview(current: State, step: int) -> np.ndarray:
        image = pictures.strip(current, spec, side)
        with atomic_path(previews / f"{prefix}{step:05d}.png") as temporary:
            Image.fromarray(image).save(temporary)
        return image

    return preview


def _watcher(on_step: OnStep | None, offset: int, total: int) -> loop.OnStep | None:
    """`on_step` for a part of the run that begins at an offset."""
    if on_step is None:
        return None
    return lambda step, picture: on_step(step + offset, total, picture)


def _make_sheet(prepared: np.ndarray, views: np.ndarray) -> np.ndarray:
    """The picture and its first sets of views, as they are shown: [H, W, 3], uint8."""
    rows = [[prepared, *row] for row in views[:SHOWN_SETS]]
    return np.asarray(grids.tile(rows, max(256, views.shape[2])))


def run_metadata(model, picture: np.ndarray, spec: ReconstructionSpec, model_id: str, init) -> dict:
    """What makes a run this one and no other: picture, model, config, where it starts."""
    return {
        "picture": hashlib.sha256(picture.tobytes() + str(picture.shape).encode()).hexdigest(),
        "model": model_id or str(model.config.name),
        "dtype": model.dtype,
        "config": spec.to_dict(),
        "init": str(init),
    }


def given_metadata(posed: PosedPictures, spec: ReconstructionSpec, framing: str) -> dict:
    """What makes a run from given pictures this one and no other: pictures, cameras, config."""
    digest = hashlib.sha256()
    for array in (posed.images, posed.c2w, posed.fov_deg, posed.seen):
        digest.update(np.ascontiguousarray(array).tobytes() + str(array.shape).encode())
    given = {"pictures": len(posed), "side": posed.side, "source": posed.source, "cameras": framing}
    return {
        "picture": digest.hexdigest(), "model": "", "dtype": "float32", "init": "none",
        "config": spec.to_dict(), "given": given,
    }  # fmt: skip


def _check_disk(out: Path, spec: ReconstructionSpec) -> None:
    """Refuses to begin where the run's files have no room."""
    shapes = jax.tree.leaves(jax.eval_shape(lambda: state.start(spec)))
    size = sum(x.size * x.dtype.itemsize for x in shapes)
    needed = 3 * size + OTHER_FILES  # the state, the one being written, a draft's
    free = shutil.disk_usage(out).free
    if free < needed:
        raise UserError(
            f"no room for this run in {out}: it may need {needed / 1e6:.0f} MB and the disk has "
            f"{free / 1e6:.0f} MB left; give another --out"
        )


def _check_same_run(out: Path, metadata: dict, spec: ReconstructionSpec) -> bool:
    """Whether the folder holds this very run; refuses it if it holds another one.

    Where iterations are left, what `settings.LIVE_KEYS` names may be other than it was.
    """
    if not state.exists(out):
        return False
    steps = spec.draft.steps if spec.mode == "views" else spec.steps
    finished = state.load_step(out) >= steps

    def facts(of: dict) -> dict:
        same = {key: of[key] for key in ("picture", "model", "init", "dtype")}
        return same | {"config": settings.comparable(of["config"], live=finished)}

    def refusal(found: list[Difference]) -> str:
        first = {difference.key: difference for difference in found}
        for key, name in (("picture", "picture"), ("model", "model"), ("init", "--init")):
            if key in first:
                return f"{out} holds a run with another {name}: give another --out"
        if "dtype" in first:
            _, was, now = first["dtype"]
            return (
                f"{out} holds a run in {was} and this one is in {now}: add --dtype {was}, or give "
                "another --out"
            )
        what = "a finished run" if finished else "a run"
        return (
            f"{out} holds {what} with another config ({', '.join(first)} differ): give another "
            "--out"
        )

    ensure_same_run(facts(state.load_metadata(out)), facts(metadata), refusal)
    return True


def _sample_views(
    model,
    picture,
    prepared,
    out: Path,
    spec: ReconstructionSpec,
    begun: bool,
    given: Views | None = None,
) -> np.ndarray:
    """Draws the views, or reads them where this run drew them before; writes input and views.

    Args:
      begun: whether something was optimised from the views that are there.
      given: the first set.
    """
    file = out / draft.VIEWS
    if begun and file.is_file():
        return draft.load_views(file)
    with atomic_path(out / "input.png") as temporary:
        Image.fromarray(picture).save(temporary)
    progress = Progress(len(spec.draft.sets), f"drawing sets of {spec.views} views", unit="set")
    drawn = [] if given is None else [np.asarray(given.images, np.float32)[None]]
    compiled = False
    for azimuth, elevation in spec.draft.sets[len(drawn) :]:
        with contextlib.nullcontext() if compiled else progress.compiling("and drawing the first"):
            drawn.append(
                sampling.sample_views(
                    model, [prepared], num_views=spec.views, azimuth_deg=azimuth,
                    elevation_deg=elevation, fov_deg=spec.draft.fov_deg, scale=spec.draft.distance,
                    seed=spec.seed,
                )
            )  # fmt: skip
        compiled = True
        progress.update(len(drawn))
    progress.close()
    views = np.concatenate(drawn)
    with atomic_path(file) as temporary:
        np.savez(temporary, views=views, prepared=prepared)
    cameras = camera_sets.as_poses(draft.sampled_cameras(views.shape[1], spec))
    write_transforms(
        out, list(to_uint8(views.reshape(-1, *views.shape[2:]))), np.asarray(cameras.c2w),
        np.asarray(cameras.fov_deg),
    )  # fmt: skip
    with atomic_path(out / "views.png") as temporary:
        Image.fromarray(_make_sheet(prepared, views)).save(temporary)
    return views


def peak_memory_gb() -> dict[str, float]:
    """The most memory in use so far: the process's, and the device's where it keeps count."""
    peak = {"process": memory.peak_bytes()}
    device = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in device:
        peak["device"] = device["peak_bytes_in_use"]
    return {name: round(value / 1e9, 3) for name, value in peak.items()}


def _report(
    metadata, history, current: State, seconds, phase_seconds, facts, spec: ReconstructionSpec
) -> dict:
    device = jax.devices()[0]
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "mode": spec.mode,
        "init": metadata["init"],
        "seed": spec.seed,
        "iterations": spec.steps,
        "skipped_iterations": int(current.skipped),
        "wanted": loop.most_wanted(history),
        "changes": metadata.get("changes", []),
        "draft": metadata.get("draft"),
        "given": metadata.get("given"),
        "picture_sha256": metadata["picture"],
        "model": metadata["model"],
        "dtype": metadata["dtype"],
        "seconds": seconds | {"of_optimisation": phase_seconds},
        "peak_memory_gb": peak_memory_gb(),
        "mesh": facts,
        "losses": {name: values[-1] for name, values in history.items() if values},
        "history": history,
        "versions": {"python": platform.python_version(), **versions},
        "device": f"{device.platform} {device.device_kind}",
        "config": metadata["config"],
    }
