"""The real server and page with a maker that knows no networks, asked as a browser asks."""

import concurrent.futures
import gc
import io
import json
import socket
import threading
import urllib.error
import urllib.request
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from iso3d_jax.core.errors import UserError
from iso3d_jax.ui import addresses
from iso3d_jax.ui.queue import Queue
from iso3d_jax.ui.runs import DONE, STOPPED, Store
from iso3d_jax.ui.workers import Workers
from tests.ui.conftest import FakeMaker, png, wait_until

gradio_client = pytest.importorskip("gradio_client")
pytest.importorskip("gradio")

MOST_BYTES = 50_000


class Served:
    """A server of the page in this process."""

    def __init__(self, folder):
        from iso3d_jax.ui import server

        self.maker, self.store = FakeMaker(), Store(folder)
        self.workers = Workers(Queue(50))
        self.workers.start(lambda: [lambda: self.maker])
        self.listener = addresses.listen("127.0.0.1", None, 17860)
        self.url = addresses.url("127.0.0.1", self.listener)
        app = server.make_app(self.store, self.workers, server.Options(MOST_BYTES))
        self.server = server.make_server(app)
        self.thread = threading.Thread(
            target=server.run, args=(self.server, self.listener, self.workers)
        )
        self.thread.start()

    def client(self):
        return gradio_client.Client(self.url, verbose=False, analytics_enabled=False)

    def get(self, path):
        """Status, headers and body of an answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=120) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def ask(self, name, *data):
        """A function of the page called by plain HTTP: ("complete", its outputs) or ("error", why).

        A twentieth of what gradio's client takes.
        """
        body, address = json.dumps({"data": data}).encode(), f"{self.url}gradio_api/call/{name}"
        post = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(post, timeout=120) as answer:
            event = json.load(answer)["event_id"]
        with urllib.request.urlopen(f"{address}/{event}", timeout=120) as answer:
            *_, kind, data = [line for line in answer.read().decode().splitlines() if line]
        return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    def upload(self, data):
        """An uploaded picture, as `begin` takes it."""
        head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="x.png"\r\n\r\n'
        post = urllib.request.Request(
            f"{self.url}gradio_api/upload", head + data + b"\r\n--b--\r\n",
            {"Content-Type": "multipart/form-data; boundary=b"},
        )  # fmt: skip
        with urllib.request.urlopen(post, timeout=120) as answer:
            return {"path": json.load(answer)[0], "meta": {"_type": "gradio.FileData"}}

    def close(self):
        self.maker.gate.set()
        self.server.should_exit = True
        self.thread.join(30)
        self.listener.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of gradio's own making
        served = Served(tmp_path_factory.mktemp("runs"))
        yield served
        served.close()


@pytest.fixture(autouse=True)
def _gradio_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
        gc.collect()


@pytest.fixture
def chair(tmp_path):
    path = tmp_path / "my <b>chair.png"
    path.write_bytes(png())
    return gradio_client.handle_file(path)


def begin(client, picture):
    """The id of a new run."""
    return client.predict(picture, "auto", api_name="/begin")[0]


def test_picture_to_views_to_object_to_files(served, chair):
    client = served.client()
    run = served.store.find(begin(client, chair))
    assert run.state.name.endswith("chair.png") and "/" not in run.state.name
    cut = np.asarray(Image.open(io.BytesIO(served.get(f"pictures/{run.id}/input")[2])))
    assert cut.shape == (30, 40, 4) and cut[15, 20, 3] == 255 and cut[1, 1, 3] == 0
    client.predict(run.id, 3, 1.5, api_name="/draw")
    wait_until(lambda: run.state.sets)
    client.predict(run.id, "draft", api_name="/make")
    wait_until(lambda: run.state.object == DONE)
    for kind, beginning in (
        ("glb", b"glTF"),
        ("turntable", b"frames"),
        ("stl", b""),
        ("obj", b"PK"),
    ):
        status, headers, body = served.get(f"files/{run.id}/{kind}")
        assert status == 200 and body.startswith(beginning), kind
        suffix = {"obj": "zip", "turntable": "mp4"}.get(kind, kind)
        assert (
            headers["Content-Disposition"].startswith("attachment")
            and suffix in headers["Content-Disposition"]
        )
    with zipfile.ZipFile(io.BytesIO(served.get(f"files/{run.id}/zip")[2])) as archive:
        assert "mesh.glb" in archive.namelist()
    # another browser, with the address alone
    page = served.get(f"?run={run.id}")
    assert page[0] == 200 and "default-src 'self'" in page[1]["Content-Security-Policy"]
    other = served.client().predict(run.id, api_name="/go_on")
    wait_until(lambda: run.state.object == DONE)
    assert run.id in str(other)


def test_what_is_refused_is_one_sentence(served, chair, tmp_path):
    client = served.client()
    text = tmp_path / "notes.png"
    text.write_text("these are notes")
    with pytest.raises(gradio_client.exceptions.AppError, match="is not a picture"):
        begin(client, gradio_client.handle_file(text))
    large = tmp_path / "large.png"
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(large)
    assert large.stat().st_size > MOST_BYTES
    with pytest.raises(ValueError, match="exceeds the maximum file size"):  # the client's own word
        begin(client, gradio_client.handle_file(large))
    with pytest.raises(urllib.error.HTTPError, match="413"):
        served.upload(large.read_bytes())
    with pytest.raises(gradio_client.exceptions.AppError, match="no such run"):
        client.predict("../../../etc", 1, 1.0, api_name="/draw")
    run = begin(client, chair)
    with pytest.raises(gradio_client.exceptions.AppError, match="the seed is"):
        client.predict(run, -1, 1.0, api_name="/draw")
    with pytest.raises(gradio_client.exceptions.AppError, match="draw four first"):
        client.predict(run, "full", api_name="/make")


@pytest.mark.parametrize(
    "path",
    ["pictures/..%2F..%2Fx/input", "pictures/{run}/..%2Frun.json", "pictures/{run}/run.json",
     "pictures/{run}/set9999", "pictures/aaaaaaaaaaaaaaaa/input", "gradio_api/file=/etc/passwd",
     "gradio_api/file={folder}/run.json", "docs", "openapi.json"],
)  # fmt: skip
def test_no_part_of_an_address_is_a_path(served, chair, path):
    run = served.store.find(begin(served.client(), chair))
    status, _, body = served.get(path.format(run=run.id, folder=run.folder))
    assert status in (403, 404) and b"root:" not in body and b"created" not in body
    assert served.get(f"files/{run.id}/glb")[0] == 409


def test_a_file_of_the_server_is_no_upload(served):
    before = set(served.store.folder.iterdir())
    inside = served.store.folder / "run.png"
    inside.write_bytes(png())
    public = "http://93.184.215.14/x.png"
    for path in (str(inside), str(inside.relative_to("/")), public):
        given = {"path": path, "meta": {"_type": "gradio.FileData"}}
        kind, answer = served.ask("begin", given, "never")
        assert kind == "error", (path, answer)
        assert path != public or "fetches nothing" in str(answer)
    inside.unlink()
    assert set(served.store.folder.iterdir()) == before


def test_a_closed_page_stops_nothing_and_a_cancelled_run_goes_on(served, chair):
    client = served.client()
    run = served.store.find(begin(client, chair))
    client.predict(run.id, 1, 1.0, api_name="/draw")
    wait_until(lambda: run.state.sets)
    served.maker.gate.clear()
    served.maker.at.clear()
    client.predict(run.id, "full", api_name="/make")
    assert served.maker.at.wait(10)
    client.close()
    again = served.client()
    again.predict(run.id, api_name="/cancel")
    served.maker.gate.set()
    wait_until(lambda: run.state.object == STOPPED)
    again.predict(run.id, api_name="/go_on")
    wait_until(lambda: run.state.object == DONE)


def test_twenty_at_once_and_none_is_lost(served):
    def one(seed):
        kind, answer = served.ask("begin", served.upload(png()), "auto")
        assert kind == "complete"
        run = served.store.find(answer[0])
        assert served.ask("draw", run.id, seed, 1.0)[0] == "complete"
        wait_until(lambda: run.state.sets)
        assert served.ask("make", run.id, "draft")[0] == "complete"
        wait_until(lambda: run.state.object == DONE)
        return run

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        runs = list(pool.map(one, range(20)))
    assert len({run.id for run in runs}) == 20
    assert [run.state.sets[0].seed for run in runs] == list(range(20))
    assert len({(run.object_folder / "mesh.glb").read_bytes() for run in runs}) == 20


def test_addresses():
    with addresses.listen("127.0.0.1", None, 17900) as first:
        port = first.getsockname()[1]
        assert addresses.url("127.0.0.1", first) == f"http://127.0.0.1:{port}/"
        assert addresses.url("0.0.0.0", first) == f"http://{socket.gethostname()}:{port}/"
        with addresses.listen("127.0.0.1", None, port) as second:
            assert second.getsockname()[1] > port
        with pytest.raises(UserError, match=f"--port {port} is in use"):
            addresses.listen("127.0.0.1", port, 0)
    with pytest.raises(UserError, match="no such address"):
        addresses.listen("no.such.host.invalid", 17999, 0)
