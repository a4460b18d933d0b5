"""Eight fake devices give the losses of one; each run is a process, for JAX to start with them."""

import json

import numpy as np
import pytest

from tests.fork_server import FAST_COMPILING

SCRIPT = """
import json, sys, tempfile
sys.path.insert(0, ".")
import jax
from tests.small_training import ONE_PROGRAM, SmallTask, small_config
from iso3d_jax.training.loop import fit
curves = []
for mix in sys.argv[1:]:
    fsdp, tensor = map(int, mix.split(","))
    cfg = small_config(mesh=dict(fsdp=fsdp, tensor=tensor), **ONE_PROGRAM)
    with tempfile.TemporaryDirectory() as folder:
        state = fit(SmallTask(cfg), folder)
        lines = [json.loads(line) for line in open(folder + "/metrics.jsonl")]
    curves.append([next(v for k, v in l.items() if k.startswith("loss/")) for l in lines])
    # A device holds its share of weights, moments and averages, and no more.
    path = "middle_block/transformer/blocks/0/ff/proj_in/kernel"
    share = 1 / (fsdp * tensor)
    moments = [m for k, m in jax.tree_util.tree_leaves_with_path(state.opt_state) if path in str(k)]
    assert len(moments) == 2
    for value in (state.params[path], state.ema_params[path], *moments):
        assert value.addressable_shards[0].data.size == share * value.size, (mix, value.sharding)
print(json.dumps(curves))
"""


def curves(run_python, devices, *mixes):
    """Ten float32 losses for each "fsdp,tensor" mix; what is left over goes to `data`."""
    flags = f"{FAST_COMPILING['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    process = run_python("-c", SCRIPT, *mixes, XLA_FLAGS=flags)
    assert process.returncode == 0, process.stderr
    assert f"{devices} x cpu" in process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_eight_devices_train_as_one(run_python):
    """2 x data, 2 x fsdp and 2 x tensor."""
    (one,) = curves(run_python, 1, "1,1")
    (eight,) = curves(run_python, 8, "2,2")
    assert len(one) == 10
    np.testing.assert_allclose(eight, one, rtol=1e-5)


@pytest.mark.slow
def test_every_mix_of_the_axes(run_python):
    (one,) = curves(run_python, 1, "1,1")
    for eight in curves(run_python, 8, "1,1", "2,1", "4,1", "8,1", "1,2", "4,2", "2,4", "1,8"):
        np.testing.assert_allclose(eight, one, rtol=1e-5)


RESUMING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, ".")
import jax, jax.numpy as jnp, numpy as np
from tests.small_training import small_config
from tests.training.test_loop_order import CountingTask
from iso3d_jax.training.loop import fit
from iso3d_jax.training.spec import StageSpec, make_spec
folder, programs = Path(sys.argv[1]), {}
class Task(CountingTask):
    def batch(self, step, rows):
        if step == self.stop_before:
            os.kill(os.getpid(), signal.SIGTERM)
        noise = np.random.default_rng(step).normal(size=(8, 2)).astype(np.float32)
        return super().batch(step, rows) | {"x": noise[rows]}
    def on_devices(self, batch, mesh):
        assert len(batch["x"].sharding.device_set) == 8
        return batch | {"factor": jnp.ones(8)}
def run(name, stop_before):
    task = Task(make_spec(StageSpec, small_config(steps=8, log_every=100, checkpoint_every=100)))
    task.stop_before = stop_before
    try:
        fit(task, folder / name, programs=programs)
    except SystemExit:
        pass
    return [asked[1] for asked in task.asked if asked[0] == "batch"]
assert run("whole", None) == list(range(8))
assert run("stopped", 3) == [0, 1, 2, 3]  # told while the third is read ahead: it is trained on
assert run("stopped", 6) == [4, 5, 6]
assert run("stopped", None) == [7]
whole, stopped = (np.load(folder / name / "model/params.npz") for name in ("whole", "stopped"))
assert np.abs(whole["w"]).min() > 0 and (whole["w"] == stopped["w"]).all()
"""


def test_a_stopped_run_of_eight_devices_ends_with_the_same_bits(run_python, tmp_path):
    """Each batch is read once, and none that was on the devices is lost, or trained on twice."""
    flags = f"{FAST_COMPILING['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    process = run_python("-c", RESUMING, tmp_path, XLA_FLAGS=flags)
    assert process.returncode == 0, process.stderr
    assert process.stderr.count("stopped by SIGTERM") == 2


ENCODING = """
import hashlib, sys
from pathlib import Path
sys.path.insert(0, ".")
from iso3d_jax.data.encode import Encoder, encode_shards
from iso3d_jax.data.multiview import open_dataset
from iso3d_jax.weights.bundle import load_model
model = load_model(networks=("vae", "clip"))
records = [open_dataset("samples", "train")[i] for i in range(7)]
encoder = Encoder(model.vae, model.clip, variants=1, pictures=["framed", "centred"])
out = Path(sys.argv[1])
encode_shards(records, out, encoder, facts={}, shard_objects=4)
for path in sorted(out.glob("*.array_record")):
    print(hashlib.sha256(path.read_bytes()).hexdigest())
"""


@pytest.mark.long
def test_eight_devices_encode_to_the_bytes_of_one(run_python, tmp_path):
    found = {}
    for devices in (1, 8):
        flags = f"{FAST_COMPILING['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        process = run_python("-c", ENCODING, tmp_path / str(devices), XLA_FLAGS=flags)
        assert process.returncode == 0, process.stderr
        found[devices] = process.stdout.split()
    assert len(found[1]) == 2 and found[1] == found[8]
