"""The progress line, and files that appear whole or not at all."""

import errno
import io
import tempfile
import threading

import pytest

from iso3d_jax.core import progress
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import (
    FolderLock,
    atomic_path,
    check_folder,
    differences,
    ensure_same_folder,
    ensure_same_run,
    make_folder,
)  # fmt: skip


class Clock:
    """A clock that the test winds."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_lines_every_few_seconds_with_rate_and_time_left(clock):
    stream = io.StringIO()
    bar = progress.Progress(100, "stage 1", stream=stream)
    for step in range(1, 101):
        clock.now += 0.5
        bar.update(step, loss=0.125)
    bar.close()
    lines = stream.getvalue().splitlines()
    assert 10 <= len(lines) <= 14
    assert "stage 1: 100/100 in 50 s  loss 0.125" == lines[-1]
    middle = next(line for line in lines if ": 51/100" in line)
    assert "2 it/s" in middle and "24 s left" in middle and "loss 0.125" in middle


def test_compile_time_is_shown_and_not_counted(clock):
    stream = io.StringIO()
    bar = progress.Progress(10, "x", stream=stream, interval=0)
    with bar.compiling("the step"):
        clock.now += 60
    for step in (1, 2, 3):
        clock.now += 1
        bar.update(step)
    text = stream.getvalue()
    assert "x: compiling the step ..." in text and "1 it/s" in text.splitlines()[-1]


def test_a_first_step_that_compiles_unseen_says_nothing_of_the_others(clock):
    stream = io.StringIO()
    bar = progress.Progress(190, "encoding", stream=stream, interval=0)
    for step, seconds in ((1, 60), (2, 1), (3, 1)):
        clock.now += seconds
        bar.update(step)
    one, two, three = stream.getvalue().splitlines()
    assert one == "encoding: 1/190"  # not three hours
    assert "1 it/s  3 min 08 s left" in two and "1 it/s  3 min 07 s left" in three
    even = progress.Progress(10, "x", stream=stream, interval=0)
    for step in (1, 2):
        clock.now += 2
        even.update(step)
    assert "0.5 it/s  16 s left" in stream.getvalue()


def test_other_work_is_shown_and_not_counted(clock):
    stream = io.StringIO()
    bar = progress.Progress(10, "x", stream=stream, interval=0)
    bar.update(0)
    for step in (1, 2, 3):
        with bar.doing("drawing samples"):
            clock.now += 100
        clock.now += 1
        bar.update(step)
    text = stream.getvalue()
    assert "x: drawing samples ..." in text and "1 it/s  7 s left" in text.splitlines()[-1]


def test_steps_one_after_another(clock):
    stream = io.StringIO()
    steps = progress.Steps("mesh", stream=stream)
    for done in (0, 32, 64):
        steps("density", done, 64)
        clock.now += 10
    steps("unwrapping", 0, 0)
    clock.now += 70
    steps.close()
    steps.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "mesh: density ..."
    assert "mesh: density: 32/64" in lines[1]
    assert lines[-3:] == [
        "mesh: density: 64/64 in 30 s", "mesh: unwrapping ...", "mesh: unwrapping: 1 min 10 s",
    ]  # fmt: skip


def test_resume_counts_from_where_it_starts(clock):
    stream = io.StringIO()
    bar = progress.Progress(1000, "x", start=900, stream=stream, interval=0)
    for step in (910, 920):
        clock.now += 10
        bar.update(step)
    assert "1 it/s" in stream.getvalue() and "1 min 20 s left" in stream.getvalue()


def test_a_listener_hears_every_step_at_once_and_what_is_none(clock):
    heard, stream = [], io.StringIO()
    with progress.listening(heard.append):
        p = progress.Progress(10, "drawing", interval=60.0, stream=stream)
        with p.compiling("it"):
            clock.now += 30
        for step in (1, 2, 3):
            clock.now += 2
            p.update(step)
        steps = progress.Steps("mesh", stream)
        steps("marching cubes", 0, 0)
    p.update(4)  # to nobody
    assert [(t.label, t.doing, t.step, t.total) for t in heard] == [
        ("drawing", "compiling it", 0, 10), ("drawing", "", 0, 10), ("drawing", "", 1, 10),
        ("drawing", "", 2, 10), ("drawing", "", 3, 10), ("mesh: marching cubes", "", 0, 0),
    ]  # fmt: skip
    assert heard[4].seconds_left == pytest.approx(7 * 2)  # compile time left out
    assert heard[0].seconds_left is None and heard[5].seconds_left is None


def test_a_listener_hears_its_own_thread_alone_and_what_others_hear_too(clock):
    heard, inside = [], []
    other = threading.Thread(
        target=lambda: progress.Progress(2, "other", stream=io.StringIO()).update(1)
    )
    with progress.listening(heard.append):
        other.start()
        other.join()
        with progress.listening(inside.append):
            progress.Progress(2, "inner", stream=io.StringIO()).update(1)
        progress.Progress(2, "own", stream=io.StringIO()).update(1)
    assert [told.label for told in heard] == ["inner", "own"]
    assert [told.label for told in inside] == ["inner"]


def test_a_terminal_gets_one_line_that_is_rewritten(clock):
    stream = Terminal()
    bar = progress.Progress(3, "x", stream=stream)
    for step in (1, 2, 3):
        clock.now += 1
        bar.update(step)
    bar.note("saved")
    bar.close()
    assert stream.getvalue().count("\n") == 2 and stream.getvalue().count("\r") >= 4


def test_duration():
    cases = {0: "0 s", 59.4: "59 s", 61: "1 min 01 s", 3661: "1 h 01 min", -3: "0 s"}
    assert [progress.duration(seconds) for seconds in cases] == list(cases.values())


def test_atomic_path_writes_whole_files_or_none(tmp_path):
    target = tmp_path / "sub" / "x.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("one")
        temporary.chmod(0o600)
        assert not target.exists() and temporary.suffix == ".txt"
    assert target.read_text() == "one"
    (tmp_path / "plain").touch()
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("two")
        raise RuntimeError
    assert target.read_text() == "one" and len(list(target.parent.iterdir())) == 1
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a" / "b" / "x.txt"):
        raise RuntimeError
    assert not (tmp_path / "a").exists()


def test_a_folder_is_tried_and_not_left(tmp_path, monkeypatch):
    assert check_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    check_folder(tmp_path)
    for path in (tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot make the folder"):
            check_folder(path)

    def refuse(dir):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match="cannot write into the folder .*: Permission denied"):
        check_folder(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folder_where_a_file_is(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot make the folder"):
            make_folder(path)


def test_a_folder_is_one_process_s_until_that_is_gone(tmp_path, capfd, other_process_in):
    holder = other_process_in(tmp_path)
    with pytest.raises(UserError, match=f"another process \\({holder.pid} on .*stop it or"):
        FolderLock(tmp_path, seconds=0.3)
    assert f"waiting up to 0 s for process {holder.pid} on" in capfd.readouterr().err
    holder.kill()
    FolderLock(tmp_path, seconds=5.0).release()
    FolderLock(tmp_path, seconds=0.0).release()


def test_what_differs_is_named_as_one_gives_it():
    theirs = {"a": 1, "inner": {"b": 5, "c": {"d": 4}}, "only_theirs": 1, "kind": 7}
    ours = {"a": 1, "inner": {"b": 2, "c": {"d": 3}}, "only_ours": 1, "kind": {"x": 1}}
    assert differences({"config": theirs}, {"config": ours}) == [
        ("config.inner.b", 5, 2), ("config.inner.c.d", 4, 3), ("config.kind", 7, {"x": 1}),
        ("config.only_ours", None, 1), ("config.only_theirs", 1, None),
    ]  # fmt: skip
    assert differences(ours, ours) == []


def test_a_folder_is_one_run_s_alone(tmp_path):
    def refusal(found):
        return f"not yours: {found}"

    file = tmp_path / "run" / "facts.json"
    ensure_same_folder(file, {"a": (1, 2)}, refusal, write=False)  # another process notes it
    assert not file.exists()
    ensure_same_folder(file, {"a": (1, 2), "free": 1}, refusal)
    ensure_same_folder(file, {"a": (1, 2), "free": 2}, refusal, free=("free",))
    with pytest.raises(UserError, match="not yours: .*'a', was=.1, 2., now=3"):
        ensure_same_folder(file, {"a": 3, "free": 1}, refusal)
    with pytest.raises(UserError, match="'late', was=None, now=5"):
        ensure_same_run({}, {"late": 5}, refusal)
    file.write_text("{")
    with pytest.raises(UserError, match="facts.json is damaged"):
        ensure_same_folder(file, {}, refusal)
