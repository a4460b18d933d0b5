"""Jobs done by threads: views between iterations, cancelling, going on, and what fails alone."""

import threading
import zipfile

import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.ui import downloads
from iso3d_jax.ui.queue import OBJECT, VIEWS, Queue
from iso3d_jax.ui.runs import DONE, FAILED, IDLE, STOPPED, WAITING, WORKING, Drawn, Store
from iso3d_jax.ui.workers import Workers
from tests.ui.conftest import STEPS, FakeMaker, new_run, wait_until


def drawn(workers, run, seed=1):
    workers.draw(run, Drawn(seed, 1.5))
    wait_until(lambda: run.state.views in (IDLE, FAILED))
    return run


def test_views_then_an_object_then_its_files(workers, maker, store):
    run = drawn(workers, new_run(store))
    assert not workers.doing and workers.about == maker.about and maker.calls[0] == "warm up"
    assert run.state.sets == (Drawn(1, 1.5),) and run.state.error == ""
    with pytest.raises(UserError, match="set 1 has this seed"):
        workers.draw(run, Drawn(1, 1.5))
    with pytest.raises(UserError, match="no such views"):
        workers.make(run, 1, "full")
    with pytest.raises(UserError, match="not finished"):
        workers.ask_export(run, "obj")
    workers.make(run, 0, "draft")
    wait_until(lambda: run.state.object == DONE)
    assert ("object", 1, "draft") in maker.calls and run.preview == STEPS
    mesh = (run.object_folder / "mesh.glb").read_bytes()
    for kind in ("stl", "obj", "zip", "stl"):
        workers.ask_export(run, kind)
        wait_until(lambda kind=kind: downloads.place(run, kind).is_file())
    assert downloads.place(run, "stl").read_bytes() == mesh[::-1]
    assert maker.calls.count(("export", ".stl")) == 1
    with zipfile.ZipFile(downloads.place(run, "obj")) as archive:
        assert archive.namelist() == ["mesh.mtl", "mesh.obj"]
    with zipfile.ZipFile(downloads.place(run, "zip")) as archive:
        assert set(archive.namelist()) == {"mesh.glb", "state.txt", "turntable.mp4"}
    with pytest.raises(UserError, match="glb, obj"):
        workers.ask_export(run, "../run.json")


def test_a_turntable_without_ffmpeg_is_a_picture_that_moves(workers, store):
    run = drawn(workers, new_run(store))
    workers.make(run, 0, "draft")
    wait_until(lambda: run.state.object == DONE)
    assert downloads.place(run, "turntable").name == "turntable.mp4"
    (run.object_folder / "turntable.mp4").rename(run.object_folder / "turntable.webp")
    assert downloads.place(run, "turntable").name == "turntable.webp"
    assert downloads.file_name(run, "turntable").endswith(".webp")


def test_other_peoples_views_are_drawn_while_an_object_is_made(workers, maker, store, monkeypatch):
    run, other = drawn(workers, new_run(store)), new_run(store)
    heard = []
    monkeypatch.setattr(run, "hear", lambda told, part=None: heard.append(told))
    maker.gate.clear()
    maker.at.clear()
    workers.make(run, 0, "full")
    assert maker.at.wait(10)
    workers.draw(other, Drawn(2, 1.0))
    assert workers.ahead(other, VIEWS) == 1 and other.state.views == WAITING
    maker.gate.set()
    wait_until(lambda: run.state.object == DONE)
    assert len(other.state.sets) == 1
    asked = [call for call in maker.calls if call != "warm up"]
    assert asked == [("views", 1), ("object", 1, "full"), ("views", 2)]
    assert set(heard) == {None}  # the run's own parts begin, and of others' views it hears nothing


def test_a_cancelled_object_goes_on_to_the_same_numbers(workers, maker, store):
    whole = drawn(workers, new_run(store))
    workers.make(whole, 0, "full")
    wait_until(lambda: whole.state.object == DONE)

    run = drawn(workers, new_run(store))
    maker.gate.clear()
    maker.at.clear()
    workers.make(run, 0, "full")
    assert maker.at.wait(10)
    with pytest.raises(UserError, match="being made"):
        workers.make(run, 0, "full")
    workers.cancel(run)
    maker.gate.set()
    wait_until(lambda: run.state.object == STOPPED)
    assert not (run.object_folder / "mesh.glb").exists()

    # the server ends here; another one finds the run, and goes on with it
    later = Store(store.folder).find(run.id)
    assert later.state.object == STOPPED and later.preview == 1
    workers.make(later, later.state.chosen, later.state.mode)
    wait_until(lambda: later.state.object == DONE)
    results = [(r.object_folder / "mesh.glb").read_bytes() for r in (whole, later)]
    assert results[0] == results[1]


def test_a_server_that_is_stopped_saves_what_it_makes_and_keeps_who_waits(start_workers, store):
    maker = FakeMaker()
    workers = start_workers(maker)
    run, waiting = drawn(workers, new_run(store)), drawn(workers, new_run(store))
    maker.gate.clear()
    maker.at.clear()
    workers.make(run, 0, "full")
    assert maker.at.wait(10)
    workers.make(waiting, 0, "full")
    assert workers.ahead(waiting, OBJECT) == 1
    threading.Timer(0.1, maker.gate.set).start()
    assert workers.stop()
    assert run.state.object == STOPPED
    assert Store(store.folder).find(waiting.id).state.object == STOPPED
    with pytest.raises(UserError, match="being stopped"):
        workers.draw(run, Drawn(9, 1.0))
    assert run.state.views == IDLE and run.state.wanted is None  # as if nobody had asked


def test_who_waits_is_taken_out_by_cancel(workers, maker, store):
    run, waiting = drawn(workers, new_run(store)), drawn(workers, new_run(store))
    maker.gate.clear()
    workers.make(run, 0, "full")
    wait_until(lambda: run.state.object == WORKING)
    workers.make(waiting, 0, "full")
    workers.cancel(waiting)
    assert waiting.state.object == STOPPED and len(workers.queue) == 0
    maker.gate.set()


def test_a_job_that_fails_keeps_nobody_else_from_theirs(workers, store, capsys):
    bad = drawn(workers, new_run(store), seed=666)
    assert bad.state.views == FAILED and "not by a fault of yours" in bad.state.error
    assert "a fault" in capsys.readouterr().err
    assert drawn(workers, bad, seed=2).state.error == ""
    (bad.set_file(0, ".npz")).unlink()
    workers.make(bad, 0, "full")
    wait_until(lambda: bad.state.object == FAILED)
    assert "000.npz" in bad.state.error
    assert drawn(workers, new_run(store)).state.sets


def test_a_full_queue_leaves_the_run_as_it_was(start_workers, store):
    maker = FakeMaker()
    workers = start_workers(maker, most=1)
    run = drawn(workers, new_run(store))
    maker.gate.clear()
    maker.at.clear()
    workers.make(run, 0, "full")
    assert maker.at.wait(10)
    first, second = new_run(store), new_run(store)
    workers.draw(first, Drawn(0, 1.0))
    before = second.state
    with pytest.raises(UserError, match="1 jobs are waiting already"):
        workers.draw(second, Drawn(0, 1.0))
    assert second.state == before
    maker.gate.set()
    wait_until(lambda: first.state.sets)


def test_devices_work_side_by_side(start_workers, store):
    makers = FakeMaker(), FakeMaker()
    workers = start_workers(*makers)
    runs = [drawn(workers, new_run(store)) for _ in makers]
    for maker in makers:
        maker.gate.clear()
    for run in runs:
        workers.make(run, 0, "full")
    wait_until(lambda: all(run.state.object == WORKING for run in runs))
    for maker in makers:
        maker.gate.set()
    wait_until(lambda: all(run.state.object == DONE for run in runs))
    assert all(any("object" in call for call in maker.calls) for maker in makers)


def test_a_model_that_cannot_be_had_is_said(capsys):
    workers = Workers(Queue(3))

    def load():
        raise UserError("model.safetensors is damaged")

    workers.start(load)
    wait_until(lambda: workers.failed)
    assert workers.failed == "model.safetensors is damaged" and workers.doing
    assert workers.stop() and "damaged" in capsys.readouterr().err


def test_time_left_is_said_from_the_second_object_on(workers, maker, store):
    run = drawn(workers, new_run(store))
    workers.make(run, 0, "full")
    wait_until(lambda: run.state.object == DONE)
    assert workers.seconds_left(run) is None  # nothing is being done
    other = drawn(workers, new_run(store))
    maker.gate.clear()
    maker.at.clear()
    workers.make(other, 0, "full")
    assert maker.at.wait(10)
    assert workers.seconds_left(other) is not None
    maker.gate.set()
