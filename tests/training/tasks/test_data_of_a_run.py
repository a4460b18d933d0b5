"""A set that changed between two resumes is noticed; one without a validation split is shown."""

from types import SimpleNamespace

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.damaged import DamagedRecord
from iso3d_jax.data.multiview import EmptySplit
from iso3d_jax.training.tasks import stages
from iso3d_jax.training.tasks.batches import data_digest


class Table(list):
    """Objects as (name, azimuths)."""

    def name(self, index):
        return self[index][0]

    def record(self, index):
        angles = np.asarray(self[index][1], np.float64)
        return SimpleNamespace(azimuth_deg=angles, elevation_deg=0 * angles)


OBJECTS = [("chair", [0, 90]), ("table", [10, 100]), ("lamp", [20, 110])]


@pytest.mark.parametrize(
    "changed",
    [
        OBJECTS[:2], OBJECTS[::-1], [("stool", [0, 90]), *OBJECTS[1:]],
        [("chair", [1, 91]), *OBJECTS[1:]], [*OBJECTS, ("sofa", [0, 90])],
    ],
)  # fmt: skip
def test_another_set_has_another_digest_and_is_refused(changed):
    assert data_digest(Table(OBJECTS)) == data_digest(Table(OBJECTS))
    assert data_digest(Table(changed)) != data_digest(Table(OBJECTS))
    task = object.__new__(stages.DenoiserTask)
    task.cfg = SimpleNamespace(data="data/mine", data_encoded="")
    gone_to = []
    task.batches = SimpleNamespace(position=lambda: {"next": 3}, restore_position=gone_to.append)
    task._digest = data_digest(Table(OBJECTS))
    position = task.position()
    task.restore_position(position)
    task.restore_position({"next": 4})  # of a checkpoint that has no digest
    assert gone_to == [{"next": 3}, {"next": 4}]
    task._digest = data_digest(Table(changed))
    with pytest.raises(UserError, match="data/mine are not those"):
        task.restore_position(position)


def test_a_damaged_object_is_left_out_of_the_digest():
    class Broken(Table):
        def record(self, index):
            if index == 1:
                raise DamagedRecord("broken")
            return super().record(index)

    assert data_digest(Broken(OBJECTS)) != data_digest(Table(OBJECTS))
    changed = [OBJECTS[0], ("stool", [5, 95]), OBJECTS[2]]
    assert data_digest(Broken(OBJECTS)) == data_digest(Broken(changed))


def test_previews_show_objects_of_training_where_there_are_no_others(monkeypatch, capsys):
    asked = []

    def load(path, split, most=None):
        asked.append((path, split, most))
        if split == "validation":
            raise EmptySplit("the validation split is empty")
        return "table"

    monkeypatch.setattr(stages.MultiViewTable, "load", load)
    task = object.__new__(stages.DenoiserTask)
    task.cfg = SimpleNamespace(data="data/mine,data/more")
    assert task.held_out == "table"
    assert asked == [("data/mine", "validation", 8), ("data/mine", "train", 8)]
    assert "no validation split" in capsys.readouterr().err
