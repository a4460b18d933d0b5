"""Where a run's numbers go."""

import json
import struct
import sys
import types

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from iso3d_jax.core.errors import UserError
from iso3d_jax.training.metrics_writer import MetricsWriter


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 3}')
    return tmp_path


def test_weights_and_biases_gets_what_the_files_get(workdir, monkeypatch):
    """A resumed run goes on with the same one: its id is the workdir's."""
    said = []
    run = types.SimpleNamespace(
        log=lambda values, step: said.append((step, values)), finish=lambda: said.append("finished")
    )
    starts = []
    fake = types.ModuleType("wandb")
    fake.init = lambda **options: starts.append(options) or run
    fake.Image = lambda pixels: pixels.shape
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (1, 2):
        writer = MetricsWriter(workdir, step - 1, "chairs")
        writer.scalars(step, {"loss": 0.5 / step})
        writer.picture(step, "samples", np.zeros((4, 6, 3)))
        writer.close()
    first, second = starts
    assert first == second and first["project"] == "chairs" and first["resume"] == "allow"
    assert first["config"] == {"seed": 3}
    once = [(1, {"loss": 0.5}), (1, {"samples": (4, 6, 3)}), "finished"]
    assert said == once + [(2, {"loss": 0.25}), (2, {"samples": (4, 6, 3)}), "finished"]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    assert len(list((workdir / "samples").iterdir())) == 2


def test_without_weights_and_biases_the_message_says_how_to_install_it(workdir, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'iso3d_jax\[wandb\]'.*leave --wandb out"):
        MetricsWriter(workdir, 0, "chairs")


def events_of(workdir):
    """All records of the event files, oldest file first."""
    found = []
    for file in sorted((workdir / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def test_tensorboard_gets_scalars_pictures_and_where_a_run_goes_on(workdir):
    writer = MetricsWriter(workdir, 6)
    writer.scalars(7, {"loss/2-b": 0.5, "gradient_norm": 2.0})
    writer.picture(7, "samples", np.full((4, 6, 3), 0.5))
    writer.close()
    version, start, loss, norm, picture = events_of(workdir)
    assert version.file_version == "brain.Event:2"
    assert start.step == 7 and start.session_log.status == event_pb2.SessionLog.START
    assert [(e.step, e.summary.value[0].tag) for e in (loss, norm, picture)] == [
        (7, "loss/2-b"), (7, "gradient_norm"), (7, "samples")
    ]  # fmt: skip
    assert loss.summary.value[0].simple_value == 0.5
    shown = picture.summary.value[0].image
    assert (shown.height, shown.width) == (4, 6) and shown.encoded_image_string[1:4] == b"PNG"


def test_a_full_disk_is_an_error_not_a_wait(workdir):
    writer = MetricsWriter(workdir)
    records = writer._board._file._py_recordio_writer
    records.close()
    with open("/dev/full", "wb", buffering=0) as records._writer:
        with pytest.raises(OSError, match="No space left"):
            writer.scalars(1, {"loss": 0.5})


def test_lines_after_the_step_that_a_run_goes_on_from_are_dropped_and_torn_ones_too(workdir):
    file = workdir / "metrics.jsonl"
    kept = ['{"step": 3, "loss": 1.0}', '{"step": 4, "loss": 2.0}']
    file.write_text(
        "\n".join([*kept, '{"step": 5, "loss": 3.0}', '{"loss": 4.0}', '{"step": 4, "lo'])
    )
    writer = MetricsWriter(workdir, 4)
    assert file.read_text() == "".join(line + "\n" for line in kept)
    writer.scalars(5, {"loss": np.float32(0.5)})
    writer.close()
    assert file.read_text().splitlines() == [*kept, '{"step": 5, "loss": 0.5}']
    (session,) = [e for e in events_of(workdir) if e.HasField("session_log")]
    assert session.step == 5  # TensorBoard drops what is after it, too


def test_pictures_are_rounded_and_named_by_their_step(workdir):
    from PIL import Image

    writer = MetricsWriter(workdir)
    image = np.zeros((2, 3, 3))
    image[0, :, 0] = [-0.5, 0.499, 1.5]
    image[1, 2, 1] = 0.999
    writer.picture(12, "samples", image)
    writer.close()
    found = np.asarray(Image.open(workdir / "samples" / "samples_000012.png"))
    assert found[0, :, 0].tolist() == [0, 127, 255] and found[1, 2].tolist() == [0, 255, 0]


def test_what_tensorboard_shows_is_no_older_than_ten_seconds(workdir, monkeypatch):
    from iso3d_jax.training import metrics_writer

    now, flushed = [50.0], []
    monkeypatch.setattr(metrics_writer.time, "monotonic", lambda: now[0])
    writer = MetricsWriter(workdir)
    monkeypatch.setattr(writer._board._file, "flush", lambda: flushed.append(now[0]))
    for seconds in (9.0, 0.9, 0.2, 9.9, 0.2):
        now[0] += seconds
        writer.scalars(1, {"loss": 1.0})
    assert flushed == pytest.approx([60.1, 70.2])
    writer.close()
