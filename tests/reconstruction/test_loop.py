"""The optimisation loop: resuming, stopping, refusing."""

import dataclasses
import os
import signal
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from iso3d_jax.commands import config_files
from iso3d_jax.core import specs
from iso3d_jax.core.errors import UserError
from iso3d_jax.geometry import camera_sets
from iso3d_jax.nerf import field
from iso3d_jax.reconstruction import loop, pictures, state
from iso3d_jax.reconstruction import step as iterations
from iso3d_jax.reconstruction.init import draft
from iso3d_jax.reconstruction.losses import WANTED, DenoiserSpec
from iso3d_jax.reconstruction.spec import ReconstructionSpec, make_spec
from iso3d_jax.reconstruction.step import loss_weights

CONFIG = Path(__file__).parents[2] / "configs" / "reconstruct.py"
SPEC = DenoiserSpec(16, 1.0, "v", "mvdream")


def same(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_twenty_iterations_equal_ten_saved_and_ten_resumed(denoiser, small_config, tmp_path):
    cfg = small_config
    whole, history, _ = loop.optimize(
        state.start(make_spec(cfg)), denoiser, make_spec(cfg), SPEC, tmp_path, {}, label="whole"
    )
    assert int(whole.step) == 20 and not same(whole.params, state.start(make_spec(cfg)).params)
    assert np.isfinite(history["guidance"]).all()

    def stop_once(current, step):
        if step == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    folder = tmp_path / "stopped"
    cfg.preview_every = 10
    programs = {}
    with pytest.raises(loop.Interrupted) as stopped:
        loop.optimize(
            state.start(make_spec(cfg)), denoiser, make_spec(cfg), SPEC, folder, {}, label="half",
            preview=stop_once, programs=programs,
        )  # fmt: skip
    assert stopped.value.signum == signal.SIGTERM
    half = state.load(folder, make_spec(cfg))
    assert int(half.step) == 10
    begin = programs["half"].seconds
    rest, _, seconds = loop.optimize(
        half, denoiser, make_spec(cfg), SPEC, folder, {}, label="half", programs=programs
    )
    assert seconds["compile"] == 0 and programs["half"].seconds == begin > 0  # shared
    assert same(whole, rest)
    assert same(whole, state.load(folder, make_spec(cfg)))


def test_the_next_program_compiles_while_the_first_runs(
    denoiser, small_config, tmp_path, monkeypatch
):
    cfg = small_config
    cfg.steps, cfg.phases = 4, ((2, 16, 1), (4, 32, 1))
    compiling = threading.Event()
    events = []

    def compile_(programs, phase):
        events.append(f"compile {phase}")
        if phase == 1:
            compiling.set()

        def program(current, source, count, _key):
            assert compiling.wait(60)  # with phase 0 running, phase 1 is being compiled
            events.append(f"run {phase}")
            record = dict.fromkeys(("total", "gradient", "opacity"), np.ones(20))
            record["skipped"] = np.zeros(20)
            return current._replace(step=current.step + count), record

        return program

    monkeypatch.setattr(loop.Programs, "_compile", compile_)
    loop.optimize(
        state.start(make_spec(cfg)), denoiser, make_spec(cfg), SPEC, tmp_path, {}, label="x"
    )
    assert events == ["compile 0", "compile 1", "run 0", "run 1"]


def test_another_seed_or_turntable_does_not_trace_the_iterations_again(
    denoiser, small_config, tmp_path, monkeypatch
):
    traced, losses = [], iterations.sds_losses
    monkeypatch.setattr(
        iterations, "sds_losses", lambda *args, **given: traced.append(1) or losses(*args, **given)
    )
    jax.clear_caches()
    counts, totals = [], []
    for seed in (1, 2):
        small_config.seed, small_config.video.frames = seed, 3 + seed
        spec = make_spec(small_config)
        _, history, _ = loop.optimize(
            state.start(spec), denoiser, spec, SPEC, tmp_path / str(seed), {}, label=str(seed)
        )
        counts.append(len(traced))
        totals.append(history["guidance"])
    assert counts == [1, 1]  # one trace: the shapes of its scalars are of the same
    assert totals[0] != totals[1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Flaky:
    """A denoiser whose output is not a number at odd timesteps."""

    healthy: Any

    def __call__(self, z_t, t, context, camera):
        broken = jnp.where(t[0, 0] % 2 == 1, jnp.nan, 0.0)
        return self.healthy(z_t, t, context, camera) + broken


def test_iterations_that_are_not_finite_are_left_out(denoiser, small_config, tmp_path, capsys):
    cfg = small_config
    cfg.steps_per_call, cfg.preview_every = 5, 10
    flaky = denoiser._replace(unet=Flaky(denoiser.unet))
    current, bad, key = state.start(make_spec(cfg)), [], jax.random.key(cfg.seed)
    program = loop.Programs(make_spec(cfg), SPEC, current, flaky, key)
    run = program.get(0)
    for step in range(20):
        before = jax.device_get(current)
        current, record = run(current, flaky, jnp.int32(1), key)
        odd = int(record["t"][0]) % 2 == 1
        assert bool(record["skipped"][0]) == odd and int(current.step) == step + 1
        assert same((before.params, before.opt_state), (current.params, current.opt_state)) == odd
        bad.append(odd)
    assert 4 < sum(bad) < 16 and int(current.skipped) == sum(bad)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(current)))

    def kill_once(current, step):
        if step == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    metadata: dict = {}
    given = dict(label="x", programs={"x": program}, preview=kill_once)
    with pytest.raises(loop.Interrupted):
        loop.optimize(
            state.start(make_spec(cfg)), flaky, make_spec(cfg), SPEC, tmp_path, metadata, **given
        )
    half = state.load(tmp_path, make_spec(cfg))
    assert int(half.step) == 10 and int(half.skipped) == sum(bad[:10])
    assert int(half.in_a_row) == bad[:10][::-1].index(False)
    rest, history, _ = loop.optimize(half, flaky, make_spec(cfg), SPEC, tmp_path, metadata, **given)
    assert same(current, rest)  # killed and resumed, and one by one
    assert np.isfinite(list(history.values())).all() and "skipped" not in history
    assert f"skipped {sum(bad)}" in capsys.readouterr().err


def test_a_run_without_a_finite_iteration_stops_and_goes_on_with_other_numbers(
    denoiser, small_config, tmp_path
):
    cfg = small_config
    cfg.max_bad_steps = 6
    cfg.guidance.scale = float("inf")  # times a difference of nothing
    spec = specs.make(ReconstructionSpec, cfg)  # of numbers that no config may have
    metadata = {"config": cfg.to_dict()}
    begin = jax.device_get(state.start(spec))
    programs = {}
    for tries in (1, 2):  # the same command is not stuck at the same iteration
        current = state.load(tmp_path, spec) if tries > 1 else state.start(spec)
        with pytest.raises(UserError, match=r"guidance loss was not a .* in 6 iterations in a row"):
            loop.optimize(
                current, denoiser, spec, SPEC, tmp_path, metadata, label="x", programs=programs
            )
        saved = jax.device_get(state.load(tmp_path, spec))
        assert same((begin.params, begin.opt_state), (saved.params, saved.opt_state))
        assert (saved.step, saved.skipped, saved.in_a_row) == (6 * tries, 6 * tries, 0)

    cfg.guidance.scale, cfg.seed = 1.3, 7
    current = state.load(tmp_path, make_spec(cfg))
    metadata = loop.go_on(tmp_path, {"config": cfg.to_dict()}, current, cfg.steps)
    assert [(c["iteration"], c["key"], c["to"]) for c in metadata["changes"]] == [
        (12, "seed", 7), (12, "guidance.scale", 1.3)
    ]  # fmt: skip
    end, history, _ = loop.optimize(
        current, denoiser, make_spec(cfg), SPEC, tmp_path, metadata, label="x"
    )
    assert int(end.step) == 20 and int(end.skipped) == 12 and not same(begin.params, end.params)
    assert np.isfinite(list(history.values())).all()
    assert state.load_metadata(tmp_path)["changes"] == metadata["changes"]


def test_a_run_is_not_called_finished_when_nothing_was_optimised(denoiser, small_config, tmp_path):
    bad = denoiser._replace(context=jnp.full((1, 1, 4), jnp.nan))
    metadata: dict = {}
    for _ in range(2):  # fewer iterations than may be bad in a row; and again, with nothing left
        with pytest.raises(UserError, match="all 20 iterations were left out"):
            current = (
                state.load(tmp_path, make_spec(small_config))
                if metadata
                else state.start(make_spec(small_config))
            )
            loop.optimize(
                current, bad, make_spec(small_config), SPEC, tmp_path, metadata, label="x"
            )


def test_thinned_samples_are_said_once(denoiser, small_config, tmp_path, capsys):
    small_config.steps_per_call = 5
    small_config.render.update(candidates=2.0, samples=1.0)
    _, history, _ = loop.optimize(
        state.start(make_spec(small_config)),
        denoiser,
        make_spec(small_config),
        SPEC,
        tmp_path,
        {},
        label="x",
    )
    most = loop.most_wanted(history)
    assert set(most) == {"candidates", "samples"} and min(most.values()) > 1
    shown = capsys.readouterr().err
    assert shown.count("samples along rays are thinned") == 1
    assert "config.render.candidates and .samples leave room" in shown
    assert f"wanted {max(history[k][-1] for k in WANTED):.4g}" in shown


def check_red_square(scene, spec):
    """The scene looks red in the middle of all views and is empty at their borders."""
    views = camera_sets.ring(4, 15.0, 40.0, 1.1, start=20.0)
    rgb, opacity, depth, normal = pictures.render_views(scene, views, 16, spec)
    assert rgb.shape == (4, 16, 16, 3) and depth.shape == (4, 16, 16) == normal.shape[:3]
    middle = rgb[:, 6:10, 6:10].mean((0, 1, 2))
    assert middle[0] > middle[1] + 0.3 and middle[0] > middle[2] + 0.3, middle
    assert opacity[:, 6:10, 6:10].min() > 0.5 > opacity[:, 0].max()


def test_draft_reaches_its_views(red_square, small_config, tmp_path):
    small_config.draft.update(steps=120, sets=((0.0, 15.0), (45.0, 0.0)))
    spec = draft.draft_spec(make_spec(small_config), 16)
    spec = dataclasses.replace(spec, occupancy=dataclasses.replace(spec.occupancy, warmup=20))
    source = draft.make_source(np.broadcast_to(red_square, (2, 4, 16, 16, 3)), spec)
    assert len(source.rays_o) == 2 * 4 * 16 * 16
    assert float(source.mask.mean()) == pytest.approx(0.25)
    scene, _, _ = loop.optimize(state.start(spec), source, spec, SPEC, tmp_path, {}, label="draft")
    check_red_square(scene, spec)


def test_state_file_is_refused_where_it_does_not_fit(small_config, tmp_path):
    with pytest.raises(UserError, match="holds no reconstruction"):
        state.load_metadata(tmp_path)
    state.save(tmp_path, state.start(make_spec(small_config)), {"note": 1, "config": {}})
    assert state.load_metadata(tmp_path) == {"note": 1, "config": {}}
    other = ConfigDict(small_config.to_dict())
    other.field.levels = 4
    with pytest.raises(UserError, match="does not fit the config"):
        state.load(tmp_path, make_spec(other))
    (tmp_path / state.FILE).write_bytes(b"PK broken")
    with pytest.raises(UserError, match="damaged"):
        state.load(tmp_path, make_spec(small_config))


def test_cameras_of_an_iteration():
    keys = jax.random.split(jax.random.key(0), 200)

    def one(key):
        return camera_sets.sample_cameras(
            key, 2, 4, camera_sets.CameraSpec((15.0, 60.0), (0.0, 30.0), (0.8, 1.0))
        )

    views = jax.vmap(one)(keys)
    azimuth = np.asarray(views.azimuth_deg)
    for k in range(4):
        assert azimuth[..., k].min() >= 90 * k and azimuth[..., k].max() < 90 * (k + 1)
    np.testing.assert_allclose(np.diff(azimuth, axis=-1), 90, atol=1e-3)
    elevation = np.asarray(views.elevation_deg)
    assert elevation.min() >= 0 and 28 < elevation.max() <= 30
    assert (elevation[..., :1] == elevation).all()
    scale = np.asarray(views.distance * np.tan(np.deg2rad(views.fov_deg) / 2))
    assert scale.min() >= 0.799 and scale.max() <= 1.001


def test_settings_are_checked_and_phases_found(small_config):
    cfg = small_config
    make_spec(cfg)
    for key, value in (("mode", "magic"), ("memory", "huge"), ("picture", "round"), ("steps", 30)):
        wrong = ConfigDict(cfg.to_dict())
        wrong[key] = value
        with pytest.raises(UserError):
            make_spec(wrong)
    for sets in ((), ((0.0, 95.0),)):
        wrong = ConfigDict(cfg.to_dict())
        wrong.draft.sets = sets
        with pytest.raises(UserError, match="config.draft.sets"):
            make_spec(wrong)
    weights = loss_weights(make_spec(cfg), jnp.int32(0))
    assert float(weights["guidance"]) == 1.0 and "orientation" in weights


def test_released_recipe_scales_with_its_number_of_iterations():
    released = config_files.load_config(f"{CONFIG}:isotropic3d")
    assert released.phases == ((5000, 64, 2), (10000, 256, 1))
    assert released.guidance.low == (0, 0.98, 0.02, 8000)
    assert released.loss.orientation == (0, 10.0, 1000.0, 5000)
    fast = config_files.load_config(f"{CONFIG}:isotropic3d,steps=1000")
    assert fast.phases == ((500, 64, 2), (1000, 256, 1))
    assert fast.guidance.high == (0, 0.98, 0.50, 800)


def test_a_scene_shown_harder_has_the_colours_that_were_optimised(small_config):
    """Blobs whose density and colour both vary along each ray; the shown rim is another colour."""
    cfg = small_config
    cfg.field.blob_scale = 3.0
    views = camera_sets.ring(2, 15.0, 40.0, 1.1)
    scene = state.start(make_spec(cfg))
    encoding = jax.tree.map(lambda x: x * 1e5, scene.params["encoding"])  # of about 1e-4
    everywhere = jnp.ones_like(scene.occs)
    scene = scene._replace(params=scene.params | {"encoding": encoding}, occs=everywhere)

    def colours(scene):
        rgb, opacity, *_ = pictures.render_views(scene, views, 16, make_spec(cfg))
        return (rgb - (1 - opacity[..., None])) / np.maximum(opacity, 1e-3)[..., None], opacity

    raw, thin = colours(scene)
    colour, solid = colours(scene._replace(params=field.sharpen(scene.params, 0.5, 4.0)))
    both = (thin > 0.3) & (solid > 0.5)
    assert both.sum() > 20 and solid[both].mean() > thin[both].mean() + 0.05
    np.testing.assert_allclose(colour[both], raw[both], atol=0.02)
