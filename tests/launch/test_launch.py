"""The launchers: what they start again, what they pass on, and that shellcheck likes them."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))


def fake_trainer(tmp_path, statuses):
    """A program in python's place that notes its arguments and ends with the next status."""
    program = tmp_path / "python"
    program.write_text(
        "#!/usr/bin/env bash\n"
        f'echo "$@" >> {tmp_path}/calls\n'
        f"statuses=({' '.join(map(str, statuses))})\n"
        f"exit ${{statuses[$(wc -l < {tmp_path}/calls) - 1]}}\n"
    )
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    "statuses, calls", [([143, 75, 0], 3), ([2], 1), ([143, 130], 2), ([1], 1), ([0], 1)]
)
def test_one_machine_starts_again_after_preemption_only(tmp_path, statuses, calls):
    environment = {"PYTHON": str(fake_trainer(tmp_path, statuses)), "RETRY_SECONDS": "0"}
    process = subprocess.run(
        [LAUNCH / "one_machine.sh", "--config", "a file.py"],
        env=os.environ | environment | {"WORKDIR": "runs/here"},
        capture_output=True,
    )
    assert process.returncode == statuses[-1]
    lines = (tmp_path / "calls").read_text().splitlines()
    assert lines == ["-m iso3d_jax.train --workdir runs/here --config a file.py"] * calls


def test_one_machine_hands_on_its_sigterm_and_ends(tmp_path):
    program = tmp_path / "python"
    program.write_text(
        "#!/usr/bin/env bash\n"
        f"trap 'sleep 0.3; echo saved > {tmp_path}/saved; exit 143' TERM\n"
        f"echo > {tmp_path}/started\n"
        "while true; do sleep 0.05; done\n"
    )
    program.chmod(0o755)
    environment = os.environ | {"PYTHON": str(program), "RETRY_SECONDS": "0"}
    process = subprocess.Popen([LAUNCH / "one_machine.sh"], env=environment)
    while not (tmp_path / "started").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 143
    assert (tmp_path / "saved").exists()


def accelerator(tmp_path, body, **variables):
    """Runs accelerator.sh with a stand-in for python; its status and the calls of the stand-in."""
    program = tmp_path / "python"
    program.write_text(
        "#!/usr/bin/env bash\n"
        f'echo "$PYTHONPATH: ${{*//[[:space:]]/ }}" >> {tmp_path}/calls\n{body}\n'
    )
    program.chmod(0o755)
    process = subprocess.run(
        [LAUNCH / "accelerator.sh", tmp_path / "out"],
        env=os.environ | {"PYTHON": str(program), "PYTHONPATH": "mine"} | variables,
        capture_output=True,
        text=True,
    )
    return process, (tmp_path / "calls").read_text().splitlines()


def test_accelerator_runs_all_its_steps_in_order(tmp_path):
    process, calls = accelerator(tmp_path, "echo said", EXTRA_PATHS="/more:/still more")
    assert process.returncode == 0, process.stderr
    assert all(call.startswith(".:/more:/still more:mine: ") for call in calls)
    smoke, tiny, measured, table, tests = (call.split(": ", 1)[1] for call in calls)
    assert "import jax, iso3d_jax" in smoke and "--tiny" in tiny
    out = tmp_path / "out"
    assert measured == (
        f"benchmarks/accelerator.py --resume --out {out}/accelerator.json --seconds 540"
    )
    assert table.endswith(f"--show {out}/accelerator.json")
    assert "-m pytest" in tests and tests.endswith("tests/guidance")
    logs = {path.name: path.read_text() for path in out.glob("*.log")}
    names = ("smoke", "tiny", "accelerator", "table", "tests")
    assert logs == {f"{name}.log": "said\n" for name in names}
    for folder in tests.split()[-4:]:
        assert (ROOT / folder).is_dir()


def test_accelerator_goes_on_behind_what_dies_and_says_so(tmp_path):
    body = f"case $* in *--resume*) [ $(grep -c -e --resume {tmp_path}/calls) = 3 ] ;; esac"
    process, calls = accelerator(tmp_path, body)
    assert process.returncode == 1
    assert sum("--resume" in call for call in calls) == 3 and "-m pytest" in calls[-1]


def test_accelerator_stops_where_nothing_would_run(tmp_path):
    process, calls = accelerator(tmp_path, "echo no device; exit 1")
    assert process.returncode == 1 and len(calls) == 1 and "no device" in process.stdout


def test_accelerator_leaves_out_what_it_has_no_time_for(tmp_path):
    process, calls = accelerator(tmp_path, "sleep 1", TOTAL_SECONDS="8", MEASURE_SECONDS="40")
    assert "left out, no time" in process.stdout
    assert not any("-m pytest" in call or "--resume" in call for call in calls)


def test_quarter_hour_hands_on_its_arguments_status_and_log(tmp_path):
    program = tmp_path / "python"
    program.write_text(
        f'#!/usr/bin/env bash\necho "$PYTHONPATH: $@" >> {tmp_path}/calls\necho said\nexit 143\n'
    )
    program.chmod(0o755)
    (tmp_path / "my data.zip").touch()
    process = subprocess.run(
        [LAUNCH / "quarter_hour.sh", "my data.zip", "out"], cwd=tmp_path, capture_output=True,
        env=os.environ
        | {"PYTHON": str(program), "WORKDIR": str(tmp_path / "work"), "PYTHONPATH": "mine"}
        | {"EXTRA_PATHS": "/more", "TRAIN_SECONDS": "90"},
    )  # fmt: skip
    assert process.returncode == 143
    assert (tmp_path / "calls").read_text() == (
        f".:/more:mine: -m iso3d_jax.tiny.quarter_hour --data {tmp_path}/my data.zip "
        f"--out {tmp_path}/out --workdir {tmp_path}/work --seconds 90\n"
    )
    assert (tmp_path / "out").is_dir()
    log = tmp_path / "work" / "log.txt"  # written by a process that may end a little later
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert log.read_text() == "said\n"
    process = subprocess.run([LAUNCH / "quarter_hour.sh", "one"], capture_output=True)
    assert process.returncode == 2 and b"usage" in process.stderr


def fake_command(folder, name, body):
    """A command of a platform that is not here; notes its arguments in NAME.calls."""
    program = folder / name
    program.write_text(f'#!/usr/bin/env bash\necho "$@" >> {folder}/{name}.calls\n{body}\n')
    program.chmod(0o755)
    return folder / f"{name}.calls"


@pytest.mark.parametrize(
    "status, restarts, again",
    [(143, 0, True), (75, 3, True), (134, 0, True), (75, 100, False), (2, 0, False), (0, 0, False)],
)
def test_slurm_queues_again_what_was_stopped_from_outside(tmp_path, status, restarts, again):
    fake_command(tmp_path, "srun", f"exit {status}")
    requeued = fake_command(tmp_path, "scontrol", "")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    process = subprocess.run(
        [LAUNCH / "slurm.sh", "--config", "a file.py"],
        env=os.environ | environment | {"SLURM_RESTART_COUNT": str(restarts)},
    )
    assert process.returncode == (0 if again else status)
    assert requeued.exists() == again and (not again or requeued.read_text() == "requeue 7\n")
    (call,) = (tmp_path / "srun.calls").read_text().splitlines()
    assert call.endswith("--distributed --workdir runs/train --config a file.py")


@pytest.mark.parametrize(
    "statuses, trainings", [((143, 75, 134, 0), 4), ((2,), 1), ((0,), 1), ((75, 1), 2)]
)
def test_tpu_trains_again_on_hosts_that_stand(tmp_path, statuses, trainings):
    calls = fake_command(
        tmp_path, "gcloud",
        'case "$*" in *describe*) echo ACTIVE ;; *)\n'
        f"statuses=({' '.join(map(str, statuses))})\n"
        f"exit ${{statuses[$(grep -c iso3d_jax.train {tmp_path}/gcloud.calls) - 1]}} ;; esac",
    )  # fmt: skip
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PROJECT": "p", "BUCKET": "b"}
    process = subprocess.run(
        [LAUNCH / "tpu.sh", "train", "--config", "a file.py"], env=os.environ | environment
    )
    assert process.returncode == statuses[-1]
    lines = [line for line in calls.read_text().splitlines() if "iso3d_jax.train" in line]
    assert len(lines) == trainings


def test_jobset_passes_flags_on_as_they_are():
    yaml = pytest.importorskip("yaml")
    flags = ["--config", "configs/stage2.py:full", "--config.data=/mnt/a b"]
    text = subprocess.check_output(
        [LAUNCH / "jobset.sh", *flags], env=os.environ | {"IMAGE": "registry/iso3d"}, text=True
    )
    job = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]
    container = job["template"]["spec"]["containers"][0]
    assert container["args"] == ["--distributed", "--workdir", "/mnt/runs/train", *flags]
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


def build(dockerfile, folder):
    """Carries out a Dockerfile's COPY lines in an empty folder; returns its entry point's words."""
    lines = dockerfile.read_text().splitlines()
    for *sources, target in (line.split()[1:] for line in lines if line.startswith("COPY ")):
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, folder / target)
            else:
                shutil.copy(ROOT / source, folder / target)
    (entry,) = (line for line in lines if line.startswith("ENTRYPOINT "))
    program, *args = json.loads(entry.removeprefix("ENTRYPOINT "))
    assert program == "python"
    return args


def test_the_container_holds_all_that_a_training_needs(tmp_path):
    """The Dockerfile's COPY lines carried out in an empty folder, then its entry point there."""
    args = build(LAUNCH / "Dockerfile", tmp_path)
    process = subprocess.run(
        [sys.executable, *args, "--config", "configs/stage2.py", "--workdir", "run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    # It gets as far as the weights that this call does not name: config and checks are there.
    assert process.returncode == 2 and "missing are: (1)" in process.stderr, process.stderr


@pytest.mark.long
def test_the_container_of_the_page_serves_it_and_ends_by_sigterm(tmp_path):
    """The same with Dockerfile.ui, at another port and with another folder for the runs."""
    pytest.importorskip("gradio")
    args = build(LAUNCH / "Dockerfile.ui", tmp_path)
    assert args[-2:] == ["--out", "/runs"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, *args, "--port", str(port), "--out", tmp_path / "runs"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert f":{port}/" in process.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=120) as answer:
            assert b"Isotropic3D" in answer.read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 143
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_images_install_extras_that_there_are():
    setup = (ROOT / "setup.py").read_text()
    for file in (LAUNCH / "Dockerfile", LAUNCH / "Dockerfile.ui"):
        (named,) = re.findall(r'-e "\.\[(.*)\]"', file.read_text())
        for extra in named.replace("${EXTRA}", "cuda").split(","):
            assert f'"{extra}": ' in setup, extra


def slurm_array(tmp_path, tasks, **variables):
    """The environment of one task of an array, with a stand-in for python that notes its calls."""
    return os.environ | {
        "PYTHON": str(tmp_path / "python"), "SLURM_ARRAY_TASK_COUNT": str(tasks),
        "SLURM_ARRAY_TASK_MAX": str(tasks - 1), "SLURM_CPUS_PER_TASK": "5",
    } | variables  # fmt: skip


@pytest.mark.parametrize("command, own", [("render", "--workers 5 "), ("encode", "")])
def test_slurms_array_shares_out_the_shards(tmp_path, command, own):
    calls = fake_command(tmp_path, "python", "")
    flags = ["--data", "my sets", "--out", "d"]
    environment = slurm_array(tmp_path, 3, SHARDS="7")
    for task in range(3):
        subprocess.run(
            [LAUNCH / "data_slurm.sh", command, *flags],
            env=environment | {"SLURM_ARRAY_TASK_ID": str(task)},
            check=True,
        )
    start, end = f"-m iso3d_jax.data.{command} --shard ", f" {own}--data my sets --out d"
    shards = [call.removeprefix(start).removesuffix(end) for call in calls.read_text().splitlines()]
    assert shards == [f"{k}/7" for k in (0, 3, 6, 1, 4, 2, 5)]


def test_slurms_array_says_what_is_wrong(tmp_path):
    """Not in an array, a part of an array, which would take others' shards, and a failed shard."""
    calls = fake_command(tmp_path, "python", "exit 2")
    script = LAUNCH / "data_slurm.sh"

    def refused(*arguments, **variables):
        process = subprocess.run(
            [script, *arguments], env=slurm_array(tmp_path, 2, **variables), capture_output=True,
            text=True,
        )  # fmt: skip
        assert process.returncode
        return process.stderr

    assert "--array" in refused("encode")
    part = refused("encode", SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_TASK_MAX="7")
    assert "from 0 on" in part and "render | encode" in refused("rendr", SLURM_ARRAY_TASK_ID="0")
    assert not calls.exists()
    failed = slurm_array(tmp_path, 2, SLURM_ARRAY_TASK_ID="0")
    assert subprocess.run([script, "encode"], env=failed).returncode == 2


def test_slurm_joins_what_was_rendered(tmp_path):
    calls = fake_command(tmp_path, "python", "")
    environment = os.environ | {"PYTHON": str(tmp_path / "python")}
    subprocess.run([LAUNCH / "data_slurm.sh", "join", "--data", "d"], env=environment, check=True)
    assert calls.read_text() == "-m iso3d_jax.data.join --data d\n"


@pytest.mark.parametrize(
    "command, own, gpus", [("render", ["--workers", "8"], {}), ("encode", [], {"GPUS": "4"})]
)
def test_an_indexed_job_gives_each_pod_its_shard(command, own, gpus):
    yaml = pytest.importorskip("yaml")
    flags = ["--data", "/mnt/my sets", "--out", "gs://bucket/objects"]
    environment = os.environ | {"IMAGE": "registry/iso3d", "SHARDS": "50", "CORES": "8"} | gpus
    text = subprocess.check_output(
        [LAUNCH / "data_job.sh", command, *flags], env=environment, text=True
    )
    found = yaml.safe_load(text)
    job = found["spec"]
    assert found["metadata"]["name"] == f"iso3d-{command}"
    assert (job["completionMode"], job["completions"]) == ("Indexed", 50)
    (container,) = job["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", f"iso3d_jax.data.{command}"]
    shard = "$(JOB_COMPLETION_INDEX)/50"  # the kubelet puts the index in its place
    assert container["args"] == ["--shard", shard, *own, *flags]
    limits = {"memory": "32Gi"} | ({"nvidia.com/gpu": 4} if gpus else {})
    assert container["resources"]["limits"] == limits
    (failed, _) = job["podFailurePolicy"]["rules"]
    assert failed["onExitCodes"] == {
        "containerName": container["name"], "operator": "In", "values": [2]
    }  # fmt: skip


def test_an_indexed_job_of_another_command_is_refused():
    process = subprocess.run(
        [LAUNCH / "data_job.sh", "train"], env=os.environ | {"IMAGE": "i"}, capture_output=True
    )
    assert process.returncode == 2 and b"render | encode" in process.stderr
