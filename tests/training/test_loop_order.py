"""What the loop does and when, on a task that is compiled at once."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.training import loop, sharding
from iso3d_jax.training.loop import fit
from iso3d_jax.training.spec import StageSpec, make_spec
from iso3d_jax.training.state import apply_gradients, step_key

RATE = 0.5


class CountingTask:
    """One weight that moves by the mean of what its batch holds; notes all that it is asked."""

    label, summary = "counting", "as told"
    graphdef, sharding_rules = None, sharding.REPLICATED

    def __init__(self, cfg):
        self.cfg = cfg
        self.init_params = {"w": np.zeros(2, np.float32), "frozen": np.ones(3, np.float32)}
        self.abstract_params = jax.eval_shape(lambda: self.init_params)
        self.asked, self.placed = [], None

    @staticmethod
    def train_step(state, batch, *, graphdef, tx, cfg):
        mean = batch["x"].mean() * batch["factor"].mean()
        state, norms = apply_gradients(state, {"w": -jnp.full(2, mean)}, tx, cfg.ema_decay)
        return state, {"loss": mean, "drawn": jax.random.uniform(step_key(state)), **norms}

    def trained(self, params):
        return ["w"]

    def branch(self, step):
        return "odd" if step % 2 else "even"

    def batch(self, step, rows):
        self.asked.append(("batch", step, rows.tolist()))
        return {"x": (step + 1.0) * np.ones((len(rows), 2), np.float32)}

    def on_devices(self, batch, mesh):
        return batch | {"factor": jnp.ones(4)}

    def position(self):
        return {"next_index": len(self.asked)}

    def restore_position(self, position):
        self.placed = position

    def names(self, step):
        return [f"object {step}"]

    def preview(self, params):
        self.asked.append(("preview", float(params["w"][0])))
        return np.zeros((2, 2, 3))

    def diagnose(self, params):
        self.asked.append(("diagnose", float(params["w"][0])))
        return {"table": 3.0}

    def export(self, params, folder):
        folder.mkdir(exist_ok=True)
        np.savez(folder / "params.npz", **params)
        self.asked.append(("export", float(params["w"][0])))


def config(make_config, **changes):
    cfg = make_config(**dict(batch_size=4, steps=5, log_every=2, checkpoint_every=3) | changes)
    return make_spec(StageSpec, cfg)


@pytest.fixture(autouse=True)
def descent(monkeypatch):
    """Adam would hide how large a gradient is."""
    import optax

    monkeypatch.setattr(loop, "make_optimizer", lambda cfg: optax.sgd(RATE))


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def averages(steps, decay=0.9):
    """The weight and its average after each step."""
    w = ema = 0.0
    for step in range(steps):
        w += RATE * (step + 1)
        d = min(decay, (1 + step) / (10 + step))
        ema = d * ema + (1 - d) * w
        yield w, ema


def test_every_step_is_done_once_and_numbers_checkpoints_and_samples_come_when_they_should(
    tmp_path, make_config, capsys
):
    task = CountingTask(config(make_config, sample_every=4, ablate_every=2))
    state = fit(task, tmp_path)
    assert [a for a in task.asked if a[0] == "batch"] == [
        ("batch", step, [0, 1, 2, 3]) for step in range(5)
    ]
    ema = [e for _, e in averages(5)]
    w = [w for w, _ in averages(5)]
    assert int(state.step) == 5
    np.testing.assert_allclose(state.params["w"], w[-1], rtol=1e-6)
    np.testing.assert_array_equal(state.params["frozen"], 1.0)
    # Samples and the table are of the averaged weights: after steps 2, 4 and at the end.
    shown = [(a[0], pytest.approx(a[1], rel=1e-5)) for a in task.asked if a[0] != "batch"]
    assert shown == [
        ("diagnose", ema[1]), ("diagnose", ema[3]), ("export", ema[3]), ("preview", ema[3]),
        ("export", ema[4]), ("preview", ema[4]),
    ]  # fmt: skip
    found = lines(tmp_path)
    steps = [line["step"] for line in found]
    assert steps == [2, 2, 4, 4, 5]  # each second, with a table; and the last
    assert [line["loss/odd"] for line in found if "loss/odd" in line] == [2.0, 4.0]
    assert found[-1]["loss/even"] == 5.0 and found[1] == {"step": 2, "table": 3.0}
    assert found[0]["steps_per_second"] > 0 and found[0]["grad_norm"] == pytest.approx(8**0.5)
    saved = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert saved == [3, 5]
    pictures = sorted(p.name for p in (tmp_path / "samples").iterdir())
    assert pictures == ["samples_000004.png", "samples_000005.png"]
    first = capsys.readouterr().err.splitlines()[0]
    assert first.endswith("0.00 M weights, 0.00 M of them frozen, as told, batch 4, 1 x cpu, "
                          "from the start")  # fmt: skip
    drawn = [line["drawn"] for line in found if "drawn" in line]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_goes_on_where_it_stopped(
    tmp_path, make_config, capsys, number, status
):
    cfg = config(make_config, checkpoint_every=100, log_every=100)
    task = CountingTask(cfg)
    draw = task.batch

    def interrupted(step, rows):
        if step == 2:
            os.kill(os.getpid(), number)
        return draw(step, rows)

    task.batch = interrupted
    with pytest.raises(SystemExit) as stop:
        fit(task, tmp_path)
    assert stop.value.code == status
    said = capsys.readouterr().err
    assert f"stopped by {number.name}; saved at step 3" in said
    again = CountingTask(cfg)
    state = fit(again, tmp_path)
    assert again.placed == {"next_index": 3} and [a[1] for a in again.asked[:2]] == [3, 4]
    np.testing.assert_allclose(state.params["w"], list(averages(5))[-1][0], rtol=1e-6)
    assert "resumed at step 3" in capsys.readouterr().err
    assert [line["step"] for line in lines(tmp_path)] == [3, 5]
    # A run that is done writes its model again, and trains nothing.
    done = CountingTask(cfg)
    assert int(fit(done, tmp_path).step) == 5
    assert [a[0] for a in done.asked] == ["export"]


def test_the_next_batch_is_there_before_a_step_is_looked_at(tmp_path, make_config, monkeypatch):
    """And a checkpoint says where the loader was without it."""
    task = CountingTask(config(make_config, log_every=1, checkpoint_every=2, sample_every=0))
    events, save = task.asked, loop.Checkpoints.save
    monkeypatch.setattr(
        loop.Checkpoints, "save",
        lambda self, done, state, position: events.append(("save", done, position))
        or save(self, done, state, position),
    )  # fmt: skip
    check = loop.StepWatch.check
    monkeypatch.setattr(
        loop.StepWatch, "check", lambda self: events.append(("check",)) or check(self)
    )
    task.position = lambda: {"after": max(e[1] for e in events if e[0] == "batch")}
    fit(task, tmp_path)
    assert [e if e[0] != "batch" else e[:2] for e in events[:-1]] == [
        ("batch", 0), ("batch", 1), ("check",),
        ("batch", 2), ("check",), ("save", 2, {"after": 1}),
        ("batch", 3), ("check",),
        ("batch", 4), ("check",), ("save", 4, {"after": 3}),
        ("check",), ("save", 5, {"after": 4}),
    ]  # fmt: skip


def test_a_batch_that_cannot_be_read_costs_no_step_before_it(tmp_path, make_config):
    task = CountingTask(config(make_config, checkpoint_every=1, log_every=100))
    draw = task.batch

    def breaks(step, rows):
        if step == 3:
            raise UserError("too many objects are damaged")
        return draw(step, rows)

    task.batch = breaks
    with pytest.raises(UserError, match="too many objects"):
        fit(task, tmp_path)
    again = CountingTask(task.cfg)
    fit(again, tmp_path)
    assert [a[1] for a in again.asked if a[0] == "batch"] == [3, 4]


def test_each_branch_is_compiled_once_and_handed_on(tmp_path, make_config, monkeypatch):
    traced = []
    original = loop.trace_step
    monkeypatch.setattr(
        loop, "trace_step", lambda *a: traced.append(int(a[5].step)) or original(*a)
    )
    programs, cfg = {}, config(make_config, sample_every=0)
    fit(CountingTask(cfg), tmp_path / "one", programs=programs)
    assert traced == [0, 1] and set(programs) == {"even", "odd"}
    fit(CountingTask(cfg), tmp_path / "two", programs=programs)
    assert traced == [0, 1]


def test_no_preview_where_samples_are_never_asked_for(tmp_path, make_config):
    task = CountingTask(config(make_config, sample_every=0))
    fit(task, tmp_path)
    assert [a[0] for a in task.asked if a[0] != "batch"] == ["export"]
    assert not (tmp_path / "samples").exists()


def test_nothing_bad_is_ever_saved(tmp_path, make_config, monkeypatch):
    """A checkpoint between two log lines looks at all steps before it; all files are closed."""
    closed = []
    for kind in (loop.MetricsWriter, loop.Checkpoints):
        close = kind.close
        monkeypatch.setattr(
            kind, "close", lambda self, kind=kind, close=close: closed.append(kind) or close(self)
        )
    task = CountingTask(config(make_config, log_every=100, checkpoint_every=2, steps=6))
    draw = task.batch
    task.batch = lambda step, rows: {
        name: value * (np.nan if step == 3 else 1) for name, value in draw(step, rows).items()
    }
    with pytest.raises(UserError, match="is not finite at step 4 .batch: object 3.*of step 2"):
        fit(task, tmp_path)
    assert [a[1] for a in task.asked] == [0, 1, 2, 3, 4]  # the last was ahead
    assert closed == [loop.Checkpoints, loop.MetricsWriter]


def test_a_trace_is_of_the_steps_after_the_third(tmp_path, make_config, monkeypatch):
    said = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: said.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: said.append("stop"))
    task = CountingTask(config(make_config, steps=7))
    draw = task.batch
    task.batch = lambda step, rows: said.append(step) or draw(step, rows)
    fit(task, tmp_path, profile_steps=2)
    where = str(tmp_path / "profile")
    assert said == [0, 1, 2, 3, where, 4, "stop", 5, 6]
    said.clear()
    fit(CountingTask(config(make_config, steps=5)), tmp_path / "short", profile_steps=9)
    assert said == [str(tmp_path / "short" / "profile"), "stop"]  # with the run's end at the latest
    said.clear()
    fit(CountingTask(config(make_config, steps=5)), tmp_path / "none")
    assert said == []


def test_a_new_state_and_its_shapes_are_the_tasks(make_config):
    import optax

    cfg = config(make_config, seed=8)
    task = CountingTask(cfg)
    tx = optax.adam(1e-3)
    abstract = loop.abstract_state(task, tx, cfg)
    assert set(abstract.ema_params) == {"w"} and abstract.params["frozen"].shape == (3,)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    shardings = sharding.state_shardings(abstract, mesh, sharding.REPLICATED)
    for params in (
        task.init_params,
        lambda: {k: v + 2 for k, v in CountingTask(cfg).init_params.items()},
    ):
        task.init_params = params
        state = loop.new_state(task, tx, cfg, abstract, shardings)
        want = params() if callable(params) else params
        for name, value in want.items():
            np.testing.assert_array_equal(state.params[name], value)
        np.testing.assert_array_equal(state.key, jax.random.key_data(jax.random.key(8)))
        assert int(state.step) == 0


def test_a_process_that_is_gone_is_told_from_a_fault_of_our_own(monkeypatch):
    left = []
    monkeypatch.setattr(loop, "leave_broken_run", lambda *a: left.append(a))
    store = type("Store", (), {"latest_step": lambda self: 7, "workdir": "here"})()

    def run(error):
        with loop._broken_runs(store):
            raise error

    gone = jax.errors.JaxRuntimeError("the peer is gone")
    with pytest.raises(jax.errors.JaxRuntimeError, match="peer"):
        run(gone)  # there is no other process
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    run(gone)
    run(TimeoutError("barrier"))
    assert [(str(e), *rest) for e, *rest in left] == [
        ("the peer is gone", 7, "here"), ("barrier", 7, "here")
    ]  # fmt: skip
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE"):
        run(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED"))
    with pytest.raises(ValueError):
        run(ValueError("ours"))


def test_several_processes_bring_the_weights_together_and_the_first_alone_shows(
    monkeypatch, make_config
):
    import optax

    from iso3d_jax.training.state import create_state

    task = CountingTask(config(make_config))
    state = create_state(task.init_params, optax.sgd(1.0), 0, ["w"])
    brought = []
    monkeypatch.setattr(sharding, "to_host", lambda params: brought.append(set(params)) or params)
    loop._whole_params(state)
    assert brought == []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    loop._show(task, state, None, None, 3, True)
    assert brought == [{"w", "frozen"}] and task.asked == []
