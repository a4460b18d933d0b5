"""Starts commands from a process that has imported the libraries already.

Two and a half seconds of every command are imports, and the tests start more than a hundred. A
command that is forked from here is otherwise one of its own: its module is run as `python -m` runs
it, with its own folder, arguments, environment, outputs, exit handlers and status. JAX starts no
thread before it is asked for a device, and nothing here asks.

    python tests/fork_server.py     reads requests, a line of JSON each, from its input
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Tests, and commands that they start, compile fast, for their programs run a few times each.
# Without the emitters of fusions a small program, of which there are thousands, takes half as long.
FAST_COMPILING = {
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
}
LIBRARIES = (
    "jax", "jax.numpy", "flax.nnx", "optax", "orbax.checkpoint", "ml_collections.config_flags",
    "absl.app", "PIL.Image", "scipy.ndimage", "trimesh", "jaxtyping",
)  # fmt: skip


def serve() -> None:
    """Forks a command for each request; answers with the process's number, then its status."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # what is imported is never garbage
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run(request)  # does not come back
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(request) -> None:
    """What `python -m MODULE ARGS` does, in the forked process."""
    code = 1
    with contextlib.suppress(BaseException):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        null = os.open(os.devnull, os.O_RDONLY)
        out, err = (
            os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            for name in ("stdout", "stderr")
        )
        for file, number in ((null, 0), (out, 1), (err, 2)):
            os.dup2(file, number)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        module, *arguments = request["arguments"]
        sys.argv = [module, *arguments]
        sys.path[:1] = [request["folder"], request["package"]]
        code = _status(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True))
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _status(program) -> int:
    """Runs it; the status that Python would exit with."""
    try:
        program()
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


class ForkServer:
    """The other side: starts `serve` when a command is first asked for.

    Args:
      outputs: a folder for what commands print.
      package: the folder that iso3d_jax is imported from.
      folder: what commands run in.
    """

    def __init__(self, outputs: Path, package: Path = ROOT, folder: Path = ROOT):
        self.outputs, self.package, self.folder = outputs, package, folder
        self.process: subprocess.Popen | None = None

    def run(self, arguments: list[str], environment: dict, timeout: float):
        """Runs `python -m ARGUMENTS...` in the folder; as `subprocess.run` does."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, __file__], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # its threads do not survive a fork
            )  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        outputs = {name: str(self.outputs / name) for name in ("stdout", "stderr")}
        request = {
            "arguments": arguments, "folder": str(self.folder), "package": str(self.package),
            "environment": environment | {"PYTHONPATH": str(self.package)}, **outputs,
        }  # fmt: skip
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        too_late = threading.Timer(timeout, os.kill, (pid, signal.SIGKILL))
        too_late.start()
        code = int(self.process.stdout.readline())
        too_late.cancel()
        said = [Path(outputs[name]).read_text() for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(arguments, code, *said)

    def close(self) -> None:
        if self.process is not None:
            self.process.communicate()


def refusing(run):
    """Runs a command by `run` that must refuse: status 2, one `error: ...` line, no traceback."""

    def refused(*args, **environment):
        process = run(*args, **environment)
        errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
        assert process.returncode == 2, process.stdout + process.stderr
        assert len(errors) == 1 and "Traceback" not in process.stderr, process.stderr
        return errors[0]

    return refused


if __name__ == "__main__":
    serve()
