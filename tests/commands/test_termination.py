"""SIGTERM ends a command with status 143, wherever the program happens to be."""

import gc
import signal
import sys
import time
import types

import pytest

from iso3d_jax.commands import termination


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(termination, "AGAIN_S", 0.05)


def wait(seconds=5.0):
    """Bytecode for some seconds, as a signal is handled between two."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)


def test_what_is_open_is_closed_and_the_signal_is_what_it_was_afterwards():
    before, closed = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(SystemExit) as ended, termination.unwinding():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            wait(0.2)  # raised again while this unwinds it would be cut short
            closed.append(True)
    assert ended.value.code == 143 and closed
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_in_a_callback_of_the_garbage_collection_is_not_lost(monkeypatch):
    """Python reports what is raised there and goes on; of this nothing is reported."""
    reported, raised = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: reported.append(lost.exc_value))

    def callback(_phase, _info):
        if not raised:
            raised.append(True)
            signal.raise_signal(signal.SIGTERM)

    gc.callbacks.append(callback)
    try:
        with pytest.raises(SystemExit) as ended, termination.unwinding():
            gc.collect()
            wait()
    finally:
        gc.callbacks.remove(callback)
    assert ended.value.code == 143 and raised and not reported


def test_other_errors_in_such_places_are_reported_as_ever(monkeypatch):
    reported, error = [], KeyError()
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: reported.append(lost.exc_value))
    before = sys.unraisablehook
    with termination.unwinding():
        sys.unraisablehook(types.SimpleNamespace(exc_value=error))
    assert reported == [error] and sys.unraisablehook is before


def test_a_bare_except_does_not_keep_a_command_alive():
    caught = []
    with pytest.raises(SystemExit) as ended, termination.unwinding():
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            caught.append(error)
            wait(0.2)  # handled meanwhile: it is not raised within the handling
        wait()
    assert ended.value.code == 143 and len(caught) == 1 and ended.value is not caught[0]
