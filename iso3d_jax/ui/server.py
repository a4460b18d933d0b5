"""Serves the page: gradio's routes, and those of the runs' pictures and files.

Nothing is asked of any other host, by the page or by this process, and no part of a request is ever
a path: runs are found by their id, pictures and files by names of a table.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import html
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# before gradio is imported, which reads them then
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"

import fastapi
import gradio
import safehttpx
import uvicorn
from fastapi.responses import FileResponse, HTMLResponse, Response

from iso3d_jax.core.errors import UserError
from iso3d_jax.ui import downloads, page
from iso3d_jax.ui.runs import WAITING, WORKING, Run, Store
from iso3d_jax.ui.workers import Workers

# What the browser may fetch and run: what this server sent. WebGL viewers make blobs and workers.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; connect-src 'self' data: blob:; "
    "frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)


async def _refuse(*_: Any, **__: Any) -> Any:
    raise gradio.Error("this server fetches nothing from other hosts: upload the file")


# gradio's way to other hosts: it would fetch what a request names by an address instead of a file
safehttpx.get = safehttpx.async_validate_url = _refuse

LONGEST_EXPORT_S = 600.0
_SET = re.compile(r"set([0-9]{1,4})")


@dataclasses.dataclass(frozen=True)
class Options:
    """What a server lets people do.

    Attributes:
      max_upload_bytes: of a picture's file.
      matting_model: an ONNX file, in place of that of the extra `matting`.
    """

    max_upload_bytes: int = 30_000_000
    matting_model: str | None = None


def make_app(store: Store, workers: Workers, options: Options) -> fastapi.FastAPI:
    """The whole server as an ASGI application."""
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    app.add_middleware(_WithPolicy)

    def found(run_id: str) -> Run:
        try:
            run = store.find(run_id)
        except UserError as error:
            raise fastapi.HTTPException(404, str(error)) from None
        if run is None:
            raise fastapi.HTTPException(404, "there is no run of this id here")
        return run

    @app.get("/pictures/{run_id}/{name}")
    def picture(run_id: str, name: str) -> Response:
        file = find_picture(found(run_id), name)
        if file is None or not file.is_file():
            raise fastapi.HTTPException(404, "there is no such picture of this run")
        return FileResponse(file, headers={"Cache-Control": "private, max-age=86400"})

    @app.get("/files/{run_id}/{kind}")
    async def file(run_id: str, kind: str) -> Response:
        run = found(run_id)
        try:
            await _export(workers, run, kind)
        except UserError as error:
            return HTMLResponse(f"<p>{html.escape(str(error))}</p>", 409)
        return FileResponse(
            downloads.place(run, kind), filename=downloads.file_name(run, kind),
            media_type="application/octet-stream",
        )  # fmt: skip

    blocks = page.make_page(store, workers, options.max_upload_bytes, options.matting_model)
    app = gradio.mount_gradio_app(
        app, blocks, path="/", max_file_size=options.max_upload_bytes, ssr_mode=False,
        footer_links=[], run_history=False, allowed_paths=[], theme=page.theme(), css=page.css(),
        head=page.head(), show_error=True, mcp_server=False, pwa=False,
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
    )  # fmt: skip
    # a mounted application counts as one that never began, and takes any file of this machine, that
    # a request names by its path, for an upload
    blocks.has_launched = True
    return app


class _WithPolicy:
    """ASGI: every answer says what the browser may do with it."""

    headers = (
        (b"content-security-policy", POLICY.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"same-origin"),  # an id is as good as a password
    )

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self.headers]
            await send(message)

        await self.app(scope, receive, send_with if scope["type"] == "http" else send)


def find_picture(run: Run, name: str) -> Path | None:
    """A picture of a run by its name in the address."""
    if match := _SET.fullmatch(name):
        return run.set_file(int(match.group(1)), ".png")
    names = {
        "original": run.folder / "original.png",
        "input": run.folder / "input.png",
        "preview": run.folder / "preview.png",
        "turntable": downloads.find_turntable(run.object_folder),
    }
    return names.get(name)


async def _export(workers: Workers, run: Run, kind: str) -> None:
    """Waits until a file is there; a thread of the server is not held up by it."""
    await asyncio.to_thread(workers.ask_export, run, kind)
    until = time.monotonic() + LONGEST_EXPORT_S
    while not downloads.place(run, kind).is_file():
        why = run.exports.get(kind, WAITING)
        if why not in (WAITING, WORKING):
            raise UserError(why)
        if time.monotonic() > until:
            raise UserError("this takes long: the file will be there if you ask again later")
        await asyncio.sleep(0.1)


class _Server(uvicorn.Server):
    """uvicorn's server; the workers are told of the end at once, and signals stay the command's."""

    def __init__(self, config: uvicorn.Config):
        super().__init__(config)
        self.signal: int | None = None
        # answers that pages still wait for are cut off in the end, which is no error
        logging.getLogger("uvicorn.error").addFilter(lambda _: not self.should_exit)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number, _frame) -> None:
            self.signal, self.should_exit = number, True
            print("stopping: objects are saved at their next iteration", flush=True)

        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def make_server(app: fastapi.FastAPI) -> _Server:
    """uvicorn's server of an application; `should_exit` ends it."""
    return _Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=2, lifespan="on"
        )
    )  # fmt: skip


def run(server: _Server, listener: socket.socket, workers: Workers) -> None:
    """Serves until it is told to end, or there can be no model; what is being made is saved."""

    def watch() -> None:
        while not server.should_exit:
            if workers.failed:
                server.should_exit = True
            time.sleep(0.2)

    threading.Thread(target=watch, name="ui-watch", daemon=True).start()
    server.run(sockets=[listener])
    if not workers.stop():
        print("an object was not at an iteration: it goes on from its last save", flush=True)


def serve(app: fastapi.FastAPI, listener: socket.socket, workers: Workers) -> None:
    """`run` for a command: until Ctrl-C or SIGTERM.

    Raises:
      KeyboardInterrupt: Ctrl-C ended it.
      SystemExit: SIGTERM did, with status 143.
    """
    server = make_server(app)
    run(server, listener, workers)
    if server.signal == signal.SIGTERM:
        raise SystemExit(128 + signal.SIGTERM)
    if server.signal is not None:
        raise KeyboardInterrupt
