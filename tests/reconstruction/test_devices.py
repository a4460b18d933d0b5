"""A folder of pictures on several devices, one object a device, stopped by Ctrl-C and gone on with;
a process of its own, so that JAX starts with two."""

import json
import signal
from pathlib import Path

import pytest
from PIL import Image

from tests.fork_server import FAST_COMPILING

CONFIG = Path(__file__).parents[2] / "configs" / "reconstruct.py"
SCRIPT = """
import json, os, signal, sys, threading, time
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from iso3d_jax.geometry import camera_sets
from iso3d_jax.commands import config_files
from iso3d_jax.reconstruction import batch, loop, losses, pictures, run, state
from iso3d_jax.reconstruction.spec import make_spec
from iso3d_jax.weights.bundle import Model

folder, out, config = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
cfg = config_files.load_config(config + ":tiny,steps=4")
cfg.mode = "views"
cfg.field.update(levels=2, log2_table_size=8, base_resolution=4, hidden=8)
cfg.render.update(step_size=2 / 16, candidates=4.0, samples=2.0, normals=1.0)
cfg.occupancy.update(resolution=8)
cfg.draft.update(steps=4, rays=64, orientation=0.0)
cfg.steps_per_call = cfg.preview_every = 2
cfg.phases = ((4, 8, 1),)
cfg.occupancy.warmup, cfg.optimizer.networks = 4, cfg.draft.networks
numbers = make_spec(cfg)
first = threading.Barrier(2, timeout=300)  # passed only where two objects are made at a time
sent = threading.Event()
used, began = {}, {}
spec = losses.DenoiserSpec(8, 1.0, "v", "mvdream")

def reconstruct(model, picture, folder, cfg, *, model_id, init, programs):
    if folder.name != "c":
        first.wait()
    folder.mkdir(parents=True, exist_ok=True)
    views = camera_sets.ring(2, 15.0, 40.0, 1.1)
    grey = np.full((2, 8, 8, 3), picture[20, 20, 0] / 255, np.float32)
    source = pictures.from_views(grey, views)
    def preview(current, step):
        if step == 2 and folder.name == "a" and not sent.is_set():
            os.kill(os.getpid(), signal.SIGINT)
            sent.set()
            time.sleep(1)
        elif step == 2 and folder.name == "b":  # it does not end before, however slow "a" is
            assert sent.wait(300)
            time.sleep(1)
    begin = state.load(folder, numbers) if state.exists(folder) else state.start(numbers)
    began[folder.name] = int(begin.step)
    current, *_ = loop.optimize(
        begin, source, numbers, spec, folder, {}, label="draft", programs=programs,
        preview=preview)
    places = {d.id for x in jax.tree.leaves((current, model.unet)) for d in x.devices()}
    sums = [float(jnp.abs(x).sum()) for x in jax.tree.leaves(current.params)]
    used[folder.name] = [sorted(places), int(current.step), sums]

model = Model(config=None, unet=jnp.ones(3))
def run_all():
    return batch.reconstruct_all(
        model, batch.find_pictures(folder), out, numbers, model_id="m", init="none",
        reconstruct=reconstruct)

try:
    run_all()
    stopped = None
except loop.Interrupted as stop:
    stopped = [stop.signum, int(state.load(out / "a", numbers).step), "c" in began]
used.clear()
print(json.dumps([stopped, run_all(), began, used]))
"""


@pytest.mark.long
def test_each_device_makes_its_own_objects(tmp_path, run_python):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, grey in (("a", 60), ("b", 60), ("c", 200)):
        image = Image.new("RGBA", (48, 48))
        image.paste((grey, grey, grey, 255), (4, 4, 44, 44))
        image.save(folder / f"{name}.png")
    (folder / "d.png").write_text("not a picture")
    process = run_python(
        "-c", SCRIPT, folder, tmp_path / "out", CONFIG,
        XLA_FLAGS=f"{FAST_COMPILING['XLA_FLAGS']} --xla_force_host_platform_device_count=2",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    stopped, failed, began, used = json.loads(process.stdout.splitlines()[-1])
    assert stopped == [signal.SIGINT, 2, False] and began["a"] == 2 and began["c"] == 0
    assert list(failed) == ["d"], process.stderr
    assert sorted(used) == ["a", "b", "c"]
    places = {name: place for name, (place, *_) in used.items()}
    assert sorted([places["a"], places["b"]]) == [[0], [1]] and places["c"] in ([0], [1])
    assert all(step == 4 for _, step, _ in used.values())
    assert used["a"][2] == used["b"][2] != used["c"][2]  # the device does not change the numbers
