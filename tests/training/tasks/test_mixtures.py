"""Several sets as one, and objects that cannot be read."""

import pickle

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.damaged import DamagedRecord
from iso3d_jax.data.encoded import EncodedSet
from iso3d_jax.training.tasks import batches
from iso3d_jax.training.tasks.mixtures import Mixture, mix
from tests.small_training import encoded_table, small_stage

ONE_BRANCH = dict(single_view_share=0.0, reference_dropout=0.0)


def sets():
    """Three sets whose objects have names of their own."""
    tables = [encoded_table(objects) for objects in (60, 30, 100)]
    for letter, table in zip("abc", tables, strict=True):
        table.names = [f"{letter}{i}" for i in range(len(table))]
    return tables


def drawn(loader, weights, steps, seed=3, **changes):
    cfg = small_stage(loader=loader, seed=seed, batch_size=16, steps=steps, **changes)
    loaded = batches.make_batches(cfg, mix(sets(), list("abc"), weights))
    return sum((loaded.names(step) for step in range(steps)), [])


def share(names):
    return np.array([sum(name[0] == letter for name in names) for letter in "abc"]) / len(names)


@pytest.mark.parametrize("loader", ["memory", "grain"])
def test_each_set_has_its_weights_share_of_the_rows(loader):
    names = drawn(loader, (1, 2, 1), 40)
    tolerance = 0.01 if loader == "grain" else 0.08
    np.testing.assert_allclose(share(names), [0.25, 0.5, 0.25], atol=tolerance)
    plain = drawn(loader, (), 40)  # each object is as likely
    np.testing.assert_allclose(share(plain), np.array([6, 3, 10]) / 19, atol=0.08)
    assert names[:80] == drawn(loader, (10, 20, 10), 5) != drawn(loader, (1, 2, 1), 5, seed=4)


def test_a_shuffled_set_of_a_mixture_gives_all_its_objects_before_one_comes_again():
    names = [name for name in drawn("grain", (1, 2, 1), 16) if name[0] == "b"]
    assert sorted(names[:30]) == sorted(f"b{i}" for i in range(30)) == sorted(names[30:60])
    assert names[:30] != names[30:60]


@pytest.mark.parametrize("loader", ["memory", "grain"])
def test_rows_of_a_mixture_are_of_the_objects_that_it_names(loader):
    tables = sets()
    cfg = small_stage(loader=loader, **ONE_BRANCH)
    loaded = batches.make_batches(cfg, mix(tables, list("abc"), (1, 1, 1)))
    rows = loaded(2)["embedding"]
    for name, embedding in zip(loaded.names(2), rows, strict=True):
        table = tables["abc".index(name[0])]
        assert (table.embedding[:, int(name[1:])] == embedding).all(-1).any()


def test_one_set_is_no_mixture_and_wrong_ones_are_refused():
    one, two, three = sets()
    assert mix([one], ["a"], ()) is one
    assert np.array_equal(Mixture([one, two], ["a", "b"], (1, 3)).weights, [0.25, 0.75])
    with pytest.raises(UserError, match="data_weights has 2 numbers for 3 data sets: give one"):
        mix([one, two, three], list("abc"), (1, 2))
    with pytest.raises(UserError, match="as many views of each object: b has 12, a has 8"):
        mix([one, encoded_table(2, views=12)], ["a", "b"], ())
    two.mirrored = np.zeros(4, bool)
    with pytest.raises(UserError, match="as many variants: b has 4, a has 2"):
        mix([one, two], ["a", "b"], ())


def test_a_mixture_goes_to_another_process():
    mixture = pickle.loads(pickle.dumps(mix(sets(), list("abc"), (1, 1, 1))))
    record = pickle.loads(pickle.dumps(mixture.record(62)))
    assert mixture.name(62) == "b2" and record.index == 62
    assert record.read(0, 1, np.array([0]), True)["moments"].shape == (1, 4, 4, 8)


class Broken:
    """A table of which some objects cannot be opened, and of others nothing be read."""

    def __init__(self, table, closed=(), torn=()):
        self._table, self._closed, self._torn = table, closed, torn
        self.mirrored, self.num_views, self.name = table.mirrored, table.num_views, table.name

    def __len__(self):
        return len(self._table)

    def record(self, index):
        if index in self._closed:
            raise DamagedRecord(f"{index} is closed")
        record = self._table.record(index)
        if index in self._torn:

            def read(*a):
                raise DamagedRecord(f"{index} is torn")

            record.read = read
        return record


@pytest.mark.parametrize("loader", ["memory", "grain"])
@pytest.mark.parametrize("where", ["closed", "torn"])
def test_the_next_whole_object_comes_in_the_place_of_a_damaged_one(loader, where, capsys):
    table = encoded_table(10)
    cfg = small_stage(loader=loader, max_damaged_share=0.3, steps=10, **ONE_BRANCH)
    loaded = batches.make_batches(cfg, Broken(table, **{where: (4, 5, 9)}))
    whole = batches.make_batches(cfg, table)
    replaced = 0
    for step in range(4):
        batch, wanted = loaded(step), whole(step)
        for row, name in enumerate(loaded.names(step)):
            index = int(name.split()[1])
            same = np.array_equal(batch["embedding"][row], wanted["embedding"][row])
            assert same == (index not in (4, 5, 9))
            stands_in = {4: 6, 5: 6, 9: 0}.get(index, index)
            found = table.embedding[:, stands_in] == batch["embedding"][row]
            assert found.all(-1).any()
            replaced += not same
        again = loaded(step)
        assert all(np.array_equal(again[k], batch[k]) for k in batch)  # seed and step decide
    assert replaced > 3
    lines = capsys.readouterr().err.splitlines()
    assert ["1 so far" in line or "2 so far" in line for line in lines] == [True, True]


@pytest.mark.parametrize("loader", ["memory", "grain"])
def test_too_many_damaged_objects_end_the_run_in_a_sentence(loader):
    cfg = small_stage(loader=loader, max_damaged_share=0.2, steps=10, **ONE_BRANCH)
    loaded = batches.make_batches(cfg, Broken(encoded_table(10), torn=(2, 3, 4)))
    message = r"3 of 10 objects are damaged, more than max_damaged_share 0.2: . is torn"
    with pytest.raises(UserError, match=message):
        for step in range(10):
            loaded(step)


def test_processes_read_what_threads_read(tmp_path):
    """From a set on disk, from any step on."""
    encoded_table(7).save(tmp_path)
    loaded = {
        processes: batches.make_batches(
            small_stage(loader="grain", read_processes=processes, steps=6, batch_size=4),
            EncodedSet(tmp_path),
        )
        for processes in (0, 2)
    }
    rows = np.array([1, 3])
    for step in (0, 1, 2, 4, 5):
        threads, processes = (loaded[n](step, rows) for n in (0, 2))
        assert threads.keys() == processes.keys()
        for name in threads:
            np.testing.assert_array_equal(threads[name], processes[name])
    assert loaded[2].position() == {"next_index": 6}
