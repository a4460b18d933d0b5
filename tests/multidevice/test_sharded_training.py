"""Eight fake devices give the losses of one; each run is a process, for JAX to start with them."""

import json

import numpy as np

SCRIPT = """
import json, sys, tempfile
sys.path.insert(0, "tests/training")
from conftest import SmallTask, small_config
from iso3d_jax.training.loop import fit
fsdp, tensor = map(int, sys.argv[1:3])
cfg = small_config(steps=4, mesh=dict(fsdp=fsdp, tensor=tensor))
with tempfile.TemporaryDirectory() as folder:
    fit(SmallTask(cfg), cfg, folder)
    lines = [json.loads(line) for line in open(folder + "/metrics.jsonl")]
print(json.dumps([next(v for k, v in line.items() if k.startswith("loss/")) for line in lines]))
"""


def losses(run_python, devices, fsdp, tensor):
    flags = f"--xla_force_host_platform_device_count={devices}"
    process = run_python("-c", SCRIPT, fsdp, tensor, XLA_FLAGS=flags)
    assert process.returncode == 0, process.stderr
    assert f"{devices} x cpu" in process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_eight_devices_train_as_one(run_python):
    one = losses(run_python, 1, 1, 1)
    np.testing.assert_allclose(losses(run_python, 8, 2, 2), one, rtol=1e-5)
