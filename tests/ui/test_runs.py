"""The store of runs: what is on the disk, what a killed server leaves, ids and names."""

import json

import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.progress import Status
from iso3d_jax.ui.runs import DONE, FAILED, IDLE, STOPPED, WAITING, WORKING, Drawn, Store
from tests.ui.conftest import FakeMaker, new_run


def test_a_run_is_found_again_by_its_id_in_another_server(store):
    run = new_run(store)
    assert store.find(run.id) is run
    run.change(mode="draft", views=WAITING, wanted=Drawn(5, 2.5))
    later = Store(store.folder).find(run.id)
    assert later is not run and later.id == run.id and len(run.id) == 16
    assert later.state.wanted == Drawn(5, 2.5) and later.state.mode == "draft"
    assert later.state.views == STOPPED and later.state.object == IDLE
    assert json.loads((run.folder / "run.json").read_text())["views"] == STOPPED


@pytest.mark.parametrize("was, found", [(WAITING, STOPPED), (WORKING, STOPPED), (DONE, DONE)])
def test_what_a_killed_server_left_is_stopped(store, was, found):
    run = new_run(store)
    run.change(object=was)
    assert Store(store.folder).find(run.id).state.object == found


@pytest.mark.parametrize("name", ["", "x", "../runs", "a" * 16, "../../../../../x", None, 3, ["a"]])
def test_an_id_is_never_a_path(store, name):
    (store.folder.parent / "x").mkdir()
    (store.folder.parent / "x" / "run.json").write_text("{}")
    assert store.find(name) is None


def test_a_name_is_words_and_no_path(store):
    run = new_run(store, "../../etc/pass\nwd <b>.png")
    assert run.state.name == "pass wd <b>.png"
    assert new_run(store, "C:\\temp\\x.png").state.name == "x.png"
    assert new_run(store, "/").state.name == "picture"
    assert len(new_run(store, "x" * 5000).state.name) < 100
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "input.png", "original.png", "run.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    ["", "[]", '{"name": 3}', {"views": "dancing"}, {"chosen": 7}, {"sets": [3]}, {"mode": "odd"}],
)
def test_a_damaged_file_is_one_sentence(store, damage):
    run = new_run(store)
    file = run.folder / "run.json"
    if isinstance(damage, dict):
        damage = json.dumps(json.loads(file.read_text()) | damage)
    file.write_text(damage)
    later = Store(store.folder)
    with pytest.raises(UserError, match="run.json"):
        later.find(run.id)


def test_sets_are_kept_and_the_last_is_chosen_until_an_object_is_begun(store):
    run, maker = new_run(store), FakeMaker()
    for seed in (4, 5):
        run.add_set(maker.views(run_picture(run), Drawn(seed, 1.0)), Drawn(seed, 1.0))
    assert run.state.chosen == 1 and run.load_set(0).seed == 4 and run.load_set(1).seed == 5
    assert run.set_file(1, ".png").is_file()
    run.change(object=DONE)
    run.add_set(maker.views(run_picture(run), Drawn(6, 1.0)), Drawn(6, 1.0))
    assert run.state.chosen == 1
    assert Store(store.folder).find(run.id).state.sets == run.state.sets


def run_picture(run):
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(run.folder / "input.png"))


def test_a_failure_is_known_where_the_disk_refuses_to_note_it(store, monkeypatch):
    from iso3d_jax.ui import runs

    def full(folder, state):
        raise OSError(28, "No space left on device")

    run = new_run(store)
    monkeypatch.setattr(runs, "_write", full)
    run.fail("object", "no room")
    assert (run.state.object, run.state.error) == (FAILED, "no room")


def test_time_left_counts_all_between_iterations_but_the_first_dispatch(store, monkeypatch):
    """10 iterations in 4 s, previews and other people's views among them: 2.5 a second."""
    from iso3d_jax.ui import runs

    now = [100.0]
    monkeypatch.setattr(runs.time, "monotonic", lambda: now[0])
    run = new_run(store)
    run.hear(Status("draft", "compiling", 0, 40, "it", None, {}), "draft")
    assert run.part_seconds_left() is None
    run.count(0, 40)
    now[0] = 160.0
    run.count(10, 40)
    assert run.part_seconds_left() is None
    now[0] = 164.0
    run.count(20, 40)
    assert run.part_seconds_left() == pytest.approx(20 / 2.5)
    now[0] = 165.0  # a second of the next ones has gone by
    assert run.part_seconds_left() == pytest.approx(20 / 2.5 - 1)
    run.hear(None, "files")
    assert run.part_seconds_left() is None
