"""A page in the browser: a picture in, views to choose from, the 3D object, its files.

    python -m iso3d_jax.ui

Prints its address, and is for this machine alone unless --host says otherwise: whoever reaches the
address may use it, so give another one only where you know who can. Runs lie in --out and are
found again under their address, after a restart too; what was stopped can go on. Needs the extra
`ui`. Without --model the small model that ships with the package is used; --config is as of
`reconstruct`, for the 3D part.
"""

import contextlib
import os
import sys
import tempfile

from iso3d_jax.commands import command_line
from iso3d_jax.core.errors import UserError
from iso3d_jax.reconstruct import default_config

flags = command_line.flags_for(__name__)

PORT = 7860

_MODEL = flags.DEFINE_string(
    "model", None, "folder of a model or of a training run; the shipped small model if left out"
)
_OUT = flags.DEFINE_string("out", "out/ui", "folder for the runs")
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "address to listen at; 0.0.0.0 lets other machines in"
)
_PORT = flags.DEFINE_integer(
    "port", None, f"to listen at; the first free one from {PORT} on if left out", 1, 65535
)
_DTYPE = flags.DEFINE_enum(*command_line.DTYPE_FLAG)
_MATTING_MODEL = flags.DEFINE_string(*command_line.MATTING_MODEL_FLAG)
_MAX_UPLOAD_MB = flags.DEFINE_float("max_upload_mb", 30.0, "of a picture's file", 0.1, 1000)
_MAX_WAITING = flags.DEFINE_integer(
    "max_waiting", 50, "jobs that may wait at once", 1, command_line.MOST
)


def main(argv):
    """Checks what was given and serves until it is stopped."""
    del argv
    cfg = command_line.get_config()
    from iso3d_jax.commands import paths
    from iso3d_jax.core import extras
    from iso3d_jax.core.files import FolderLock, check_folder, make_folder

    extras.require("gradio")
    paths.matting_model(_MATTING_MODEL.value)
    paths.model("--model", _MODEL.value, "unet", "vae", "clip")
    check_folder(_OUT.value)

    from iso3d_jax.ui import addresses

    listener = addresses.listen(_HOST.value, _PORT.value, PORT)
    with contextlib.ExitStack() as stack:
        stack.enter_context(listener)
        stack.enter_context(FolderLock(make_folder(_OUT.value), seconds=0))
        # gradio's copies of uploads and meshes, which it keeps for all users of a machine otherwise
        kept = stack.enter_context(tempfile.TemporaryDirectory(prefix="iso3d_ui_"))
        os.environ["GRADIO_TEMP_DIR"] = kept
        from iso3d_jax.ui.queue import Queue
        from iso3d_jax.ui.runs import Store
        from iso3d_jax.ui.workers import Workers

        workers = Workers(Queue(_MAX_WAITING.value))
        workers.start(lambda: load(cfg))
        from iso3d_jax.ui import server

        options = server.Options(
            max_upload_bytes=round(_MAX_UPLOAD_MB.value * 1e6), matting_model=_MATTING_MODEL.value
        )
        app = server.make_app(Store(_OUT.value), workers, options)
        url = addresses.url(_HOST.value, listener)
        print(f"the page: {url}\nruns lie in {_OUT.value}; Ctrl-C ends it", flush=True)
        server.serve(app, listener, workers)
    if workers.failed:
        raise UserError(workers.failed)


def load(cfg):
    """The makers of the model; in the background, for it takes seconds."""
    from iso3d_jax.reconstruction.spec import make_spec
    from iso3d_jax.ui.makers import load_makers

    if cfg.preview_every:  # people look at it while it works
        cfg.preview_every = min(cfg.preview_every, max(50, cfg.steps_per_call))
    make_spec(cfg)
    return load_makers(_MODEL.value, _DTYPE.value, cfg)


if __name__ == "__main__":
    command_line.define_config_flag(default_config(sys.argv), own_preset=True)
    command_line.run(main)
