"""training/ahead.py: what is on the devices, and when."""

import threading

import jax
import numpy as np
import pytest

from iso3d_jax.training import ahead, sharding
from iso3d_jax.training.ahead import BatchesAhead


class Loader:
    """Counts what it is asked; its position is the number of the last batch."""

    def __init__(self):
        self.asked = []

    def batch(self, step, rows):
        self.asked.append(step)
        if step == 9:
            raise KeyError("damaged")
        return {"x": np.full((len(rows), 3), step, np.float32)}

    def position(self):
        return {"last": self.asked[-1]}


class Step:
    """A step that runs until the test says that it is done."""

    def __init__(self, done=False):
        self.event = threading.Event()
        if done:
            self.event.set()


@pytest.fixture
def mesh():
    return sharding.make_mesh(devices=jax.devices()[:1])


@pytest.fixture
def waits(monkeypatch):
    """Takes the place of waiting for the devices: the steps that were waited for."""
    asked = []

    def wait(step):
        asked.append(step)
        assert step.event.wait(120)

    monkeypatch.setattr(ahead.jax, "block_until_ready", wait)
    return asked


def test_each_batch_is_read_once_and_its_position_is_of_the_one_that_was_taken(mesh, waits):
    loader = Loader()
    with BatchesAhead(loader, 4, mesh) as batches:
        for step in range(3):
            batch = batches.take(step)
            assert isinstance(batch["x"], jax.Array) and batch["x"].shape == (4, 3)
            assert float(batch["x"][0, 0]) == step
            assert loader.asked == list(range(step + 1)) and batches.position == {"last": step}
            batches.prepare(step + 1, Step(done=True))
            assert loader.asked == list(range(step + 2)) and batches.position == {"last": step}
        assert float(batches.take(7)["x"][0, 0]) == 7  # another than was prepared
        assert batches.position == {"last": 7}


def test_what_goes_wrong_is_told_with_the_step_that_wants_it(mesh, waits):
    with BatchesAhead(Loader(), 4, mesh) as batches:
        batches.take(8)
        batches.prepare(9, Step(done=True))
        assert batches.position == {"last": 8}
        with pytest.raises(KeyError, match="damaged"):
            batches.take(9)
        assert batches.position == {"last": 8}


def test_no_more_than_two_batches_are_on_the_devices(mesh, waits):
    """The third is read when the first one's step is done, not when the second one's is."""
    loader, first, second = Loader(), Step(), Step()
    with BatchesAhead(loader, 4, mesh) as batches:
        batches.take(0)
        batches.prepare(1, first)
        batches.take(1)
        thread = threading.Thread(target=batches.prepare, args=(2, second))
        thread.start()
        thread.join(0.1)
        assert thread.is_alive() and loader.asked == [0, 1]
        first.event.set()
        thread.join(20)
        assert not thread.is_alive() and loader.asked == [0, 1, 2]
        assert not second.event.is_set()
        second.event.set()


def test_the_devices_waited_from_their_step_to_their_batch(mesh, waits, monkeypatch):
    now, waited, step = [0.0], [], Step()
    monkeypatch.setattr(ahead.time, "monotonic", lambda: now[0])
    loader = Loader()
    draw = loader.batch

    def slow(number, rows):
        now[0] += 2.0
        if number == 2:  # the step that runs ends here, and its end is noted
            step.event.set()
            ends[0].result(20)
        now[0] += 1.0
        return draw(number, rows)

    loader.batch = slow
    with BatchesAhead(loader, 4, mesh, waited.append) as batches:
        ends, submit = [], batches._ends.submit
        batches._ends.submit = lambda *given: ends.insert(0, submit(*given)) or ends[0]
        batches.take(0)
        assert waited == [3.0]  # nothing ran
        long = Step()
        batches.prepare(1, long)
        assert waited == [3.0]  # the step outlasts it
        long.event.set()
        batches.take(1)
        batches.prepare(2, step)
        assert waited == [3.0, 1.0]
