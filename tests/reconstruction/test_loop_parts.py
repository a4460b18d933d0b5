"""What a dispatch holds, when a run saves, shows and stops; programs are stand-ins."""

import contextlib
import signal
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.reconstruction import loop, state
from iso3d_jax.reconstruction.losses import DenoiserSpec
from iso3d_jax.reconstruction.spec import make_spec
from iso3d_jax.reconstruction.state import State

SPEC = DenoiserSpec(16, 1.0, "v", "mvdream")


@pytest.fixture
def cfg(small_config):
    small_config.steps, small_config.phases = 30, ((12, 16, 1), (30, 32, 1))
    small_config.update(steps_per_call=5, save_every=8, preview_every=6, max_bad_steps=4)
    return small_config


def begin(step=0, skipped=0, in_a_row=0):
    numbers = (jnp.int32(x) for x in (step, skipped, in_a_row))
    step, skipped, in_a_row = numbers
    return State(step, {}, {}, jnp.zeros(8), skipped, in_a_row)


class Stand:
    """A program: notes what it runs, and that iterations from `bad` on are not finite."""

    def __init__(self, monkeypatch, bad=None, until=99, wanted=0.5):
        self.ran, self.saved, self.bad, self.until, self.wanted = [], [], bad, until, wanted
        monkeypatch.setattr(loop.Programs, "_compile", lambda programs, phase: self.program(phase))
        monkeypatch.setattr(
            state, "save", lambda folder, current, metadata: self.saved.append(int(current.step))
        )

    def program(self, phase):
        def run(current, source, count, _key):
            first = int(current.step)
            at = np.arange(first, first + int(count))
            bad = np.array([self.bad is not None and self.bad <= k < self.until for k in at])
            self.ran.append((phase, first, int(count)))
            names = "guidance", "opacity", "wanted_candidates", "wanted_samples", "skipped"
            record = {name: np.zeros(50) for name in names}
            record["guidance"][: len(at)] = np.where(bad, np.nan, at)
            record["opacity"][: len(at)] = 0.25
            record["wanted_candidates"][: len(at)] = self.wanted + 0.01 * at
            record["wanted_samples"][: len(at)] = 0.1
            record["skipped"][: len(at)] = bad
            row = int(bad[::-1].argmin()) if not bad.all() else int(current.in_a_row) + len(bad)
            return current._replace(
                step=jnp.int32(first + len(at)), skipped=current.skipped + int(bad.sum()),
                in_a_row=jnp.int32(row),
            ), record  # fmt: skip

        return run


class Shown:
    """Stands for the line of progress."""

    def __init__(self):
        self.updates, self.notes, self.closed = [], [], 0

    def update(self, step, **numbers):
        self.updates.append((step, numbers))

    def note(self, text):
        self.notes.append(text)

    def compiling(self, what):
        return contextlib.nullcontext()

    doing = compiling

    def close(self):
        self.closed += 1


def test_dispatches_end_where_something_is_to_be_done(cfg, tmp_path, monkeypatch):
    """Every five iterations, at the end of a phase, for a picture, for a file, and at the end."""
    stand, shown = Stand(monkeypatch), []
    end, history, seconds = loop.optimize(
        begin(), None, make_spec(cfg), SPEC, tmp_path, {}, label="x",
        preview=lambda current, step: shown.append((int(current.step), step)),
    )  # fmt: skip
    edges = [0, 5, 6, 8, 12, 16, 18, 23, 24, 29, 30]
    want = [(int(a >= 12), a, b - a) for a, b in zip(edges, edges[1:], strict=False)]
    assert stand.ran == want and stand.saved == [8, 16, 24, 30]
    assert shown == [(s, s) for s in (6, 12, 18, 24, 30)] and int(end.step) == 30
    assert history["step"] == edges[1:]
    assert history["guidance"][:3] == [2.0, 5.0, 6.5]  # means of each dispatch
    np.testing.assert_allclose(history["wanted_candidates"][:3], [0.54, 0.55, 0.57])  # the largest
    assert set(history) == {"step", "guidance", "opacity", "wanted_candidates", "wanted_samples"}
    assert set(seconds) == {"compile", "iterations", "previews"}


def test_nothing_is_saved_or_shown_in_between_where_it_is_not_asked_for(cfg, tmp_path, monkeypatch):
    stand, shown = Stand(monkeypatch), []
    cfg.update(save_every=0, preview_every=0, steps_per_call=50)
    metadata = {"history": {"step": [3], "guidance": [9.0]}}
    _, history, _ = loop.optimize(
        begin(4),
        None,
        make_spec(cfg),
        SPEC,
        tmp_path,
        metadata,
        label="x",
        preview=lambda *x: shown.append(x),
    )
    assert stand.ran == [(0, 4, 8), (1, 12, 18)] and stand.saved == [30] and not shown
    assert history["step"] == [3, 12, 30] and metadata["history"] is history  # goes on
    stand.ran.clear()
    loop.optimize(begin(30), None, make_spec(cfg), SPEC, tmp_path, metadata, label="x")
    assert not stand.ran  # it is finished


def test_programs_are_shared_by_their_label(cfg, tmp_path, monkeypatch):
    Stand(monkeypatch)
    shared: dict = {}
    for label in ("a", "b", "a"):
        loop.optimize(
            begin(), None, make_spec(cfg), SPEC, tmp_path, {}, label=label, programs=shared
        )
    assert set(shared) == {"a", "b"}


def test_a_run_stops_after_so_many_bad_iterations(cfg, tmp_path, monkeypatch):
    stand, line = Stand(monkeypatch, bad=14), Shown()
    cfg.max_bad_steps = 5
    what = "guidance loss was not .* in 9 iterations in a row, the last of them iteration 22;"
    with pytest.raises(UserError, match=f"{what}.*--config.guidance.scale"):
        loop.optimize(begin(), None, make_spec(cfg), SPEC, tmp_path, {}, label="x", progress=line)
    assert stand.saved == [8, 16, 23]
    assert [(step, n.get("skipped")) for step, n in line.updates[-3:]] == [
        (16, 2), (18, 4), (23, 9)
    ]  # fmt: skip
    assert "skipped" not in line.updates[0][1] and "guidance" not in line.updates[-1][1]
    cfg.max_bad_steps = 4
    with pytest.raises(UserError, match="in 4 iterations in a row, .* iteration 17;"):
        loop.optimize(begin(), None, make_spec(cfg), SPEC, tmp_path, {}, label="x")
    Stand(monkeypatch, bad=24, until=99)  # the last six: there is nothing left to stop
    cfg.max_bad_steps = 6
    end, history, _ = loop.optimize(begin(), None, make_spec(cfg), SPEC, tmp_path, {}, label="x")
    assert int(end.skipped) == 6 and int(end.step) == 30 and history["step"][-1] == 24


def test_much_thinned_samples_are_told_once(cfg, tmp_path, monkeypatch):
    Stand(monkeypatch, wanted=1.424)
    line = Shown()
    loop.optimize(begin(), None, make_spec(cfg), SPEC, tmp_path, {}, label="x", progress=line)
    (note,) = line.notes
    assert "up to 1.53 times" in note and "config.render.candidates leaves room" in note
    wanted = {step: numbers.get("wanted") for step, numbers in line.updates}
    assert wanted[5] == pytest.approx(1.464) and wanted[30] == pytest.approx(1.714)
    assert line.closed == 1


def test_samples_that_are_thinned_a_little_are_shown_and_not_worth_a_note(
    cfg, tmp_path, monkeypatch
):
    Stand(monkeypatch, wanted=0.95)
    line = Shown()
    loop.optimize(begin(), None, make_spec(cfg), SPEC, tmp_path, {}, label="x", progress=line)
    wanted = {step: numbers.get("wanted") for step, numbers in line.updates}
    assert wanted[6] is None and wanted[8] == pytest.approx(1.02)
    assert wanted[30] == pytest.approx(1.24) and not line.notes
    assert line.updates[0] == (5, {"guidance": 2.0, "opacity": 0.25})


@pytest.mark.parametrize("end, notes", [(0.2, []), (2.0, ["up to 2.15 times"])])
def test_of_a_draft_the_haze_that_it_begins_with_is_not_worth_a_note(
    cfg, tmp_path, monkeypatch, end, notes
):
    class ThinsOut(Stand):
        def program(self, phase):
            run = super().program(phase)

            def one(current, *rest):
                self.wanted = 3.0 if int(current.step) < 12 else end
                return run(current, *rest)

            return one

    ThinsOut(monkeypatch)
    cfg.mode, line = "views", Shown()
    loop.optimize(begin(), None, make_spec(cfg), SPEC, tmp_path, {}, label="x", progress=line)
    assert line.updates[0][1]["wanted"] == pytest.approx(3.04)
    assert len(line.notes) == len(notes)
    for note, part in zip(line.notes, notes, strict=True):
        assert part in note


def test_a_signal_stops_at_the_end_of_the_dispatch(cfg, tmp_path, monkeypatch):
    stand, before = Stand(monkeypatch), signal.getsignal(signal.SIGINT)

    def kill(current, step):
        if step == 12:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(loop.Interrupted) as stopped:
        loop.optimize(begin(), None, make_spec(cfg), SPEC, tmp_path, {}, label="x", preview=kill)
    assert stopped.value.signum == signal.SIGINT and stand.saved == [8, 12]
    stand.saved.clear()
    cfg.preview_every = 30

    def late(current, step):
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(loop.Interrupted) as stopped:
        loop.optimize(begin(), None, make_spec(cfg), SPEC, tmp_path, {}, label="x", preview=late)
    # A signal that comes with the last iteration is a signal too; what was done is saved.
    assert stopped.value.signum == signal.SIGTERM and stand.saved[-1] == 30
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_stops_at_once_and_threads_share_the_first():
    before = signal.getsignal(signal.SIGTERM)
    with loop.signals() as seen:
        signal.raise_signal(signal.SIGTERM)
        assert seen == [signal.SIGTERM]
        found = []

        def work():
            with loop.signals() as inner:
                found.append(inner)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert found[0] is seen
        with loop.signals() as nested:
            assert nested == [] and nested is not seen
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before and loop._seen == []


def test_means_are_over_the_finite_iterations_that_ran():
    record = {
        "skipped": np.array([0, 1, 0, 0, 0.0]), "guidance": np.array([1, np.nan, 3, 50, 60.0]),
        "wanted_samples": np.array([0.5, 9.0, 0.25, 70.0, 80.0]),
    }  # fmt: skip
    means = loop._finite_means(record, 3)
    assert means == {"guidance": 2.0, "wanted_samples": 0.5}
    assert loop._finite_means(record | {"skipped": np.ones(5)}, 3) == {}


def test_what_was_wanted_most():
    history = {"wanted_candidates": [0.5, 1.5, 0.7], "wanted_samples": [], "step": [9.0]}
    assert loop.most_wanted(history) == {"candidates": 1.5}
    said = loop._too_few({"candidates": 1.25, "samples": 1.5})
    assert "up to 1.50 times" in said and "candidates and .samples leave room" in said
    assert "config.render.samples leaves room" in loop._too_few({"candidates": 1.0, "samples": 2.0})


def test_the_losses_that_were_not_finite_are_named(cfg):
    record = {"guidance": np.array([1.0, np.nan, 5.0]), "mask": np.array([1.0, np.inf, 2.0]),
              "hull": np.array([np.nan, 1.0, np.nan])}  # fmt: skip
    message = str(loop._bad_steps(record, 2, begin(17, 3, 3), make_spec(cfg)))
    assert message.startswith("the guidance and mask loss was not a finite number in 3 iterations")
    assert "the last of them iteration 16;" in message
    only = {"guidance": np.zeros(3)}
    cfg.mode = "views"
    message = str(loop._bad_steps(only, 2, begin(17, 3, 3), make_spec(cfg)))
    assert message.startswith("the gradient's norm was") and "--config.draft.networks" in message


def test_a_run_of_which_nothing_was_learned(cfg):
    loop._check_learned({"step": [3]}, begin(9, 4), make_spec(cfg))
    loop._check_learned({}, begin(0, 0), make_spec(cfg))
    with pytest.raises(UserError, match="all 4 iterations were left out"):
        loop._check_learned({}, begin(4, 4), make_spec(cfg))
