"""Models from a hub and to it, against a server of the hub's protocol on this machine."""

import base64
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading

import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.weights import folders, hub, publishing

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "tester/small"


class Hub(http.server.BaseHTTPRequestHandler):
    """The few answers that fetching and committing need; `repos` has files by repository."""

    repos: dict[str, dict[str, bytes]] = {}
    asked: list[str] = []

    def log_message(self, *args):
        pass

    def answer(self, status, content=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, value):
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def do_GET(self):
        self.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/models/(\w+/\w+)(/revision/.+)?", path):
            if match[1] not in self.repos:
                return self.answer(404, X_Error_Code="RepoNotFound")
            files = [{"rfilename": name} for name in self.repos[match[1]]]
            return self.json({"id": match[1], "sha": COMMIT, "siblings": files})
        if match := re.fullmatch(r"/api/models/(\w+/\w+)/tree/.+", path):
            files = self.repos[match[1]]
            return self.json(
                [
                    {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                    for n, c in files.items()
                ]
            )
        match = re.fullmatch(r"/(\w+/\w+)/resolve/[^/]+/(.+)", path)
        content = match and self.repos.get(match[1], {}).get(match[2])
        if content is None:
            return self.answer(404, X_Error_Code="EntryNotFound")
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self.answer(200, content, ETag=etag, X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def do_POST(self):
        self.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given.get('organization', 'tester')}/{given['name']}"
            self.repos.setdefault(name, {})
            return self.json({"url": f"{os.environ['HF_ENDPOINT']}/{name}", "name": name})
        if self.path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            return self.json(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                           for f in files]}
            )  # fmt: skip
        if match := re.fullmatch(r"/api/models/(\w+/\w+)/commit/\w+", self.path):
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    content = base64.b64decode(value["content"])
                    self.repos[match[1]][value["path"]] = content
            return self.json(
                {"commitUrl": f"{os.environ['HF_ENDPOINT']}/{match[1]}/commit/{COMMIT}",
                 "commitOid": COMMIT, "hookOutput": ""}
            )  # fmt: skip
        return self.answer(404)


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The address of a hub with nothing in it; HF_ENDPOINT says so to processes started here."""
    Hub.repos, Hub.asked = {}, []
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{made.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    yield made
    made.shutdown()
    made.server_close()


def python(program):
    """What a new process prints, which has read the environment; or its error's last line."""
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, timeout=120
    )
    return process.stdout.strip() or process.stderr.strip().splitlines()[-1]


FETCH = f"from iso3d_jax.weights.folders import find_bundle; print(find_bundle({MODEL!r}))"


def test_a_model_is_pushed_with_its_card_and_comes_back_the_same(server, model_folder, tmp_path):
    pushed = python(
        "from iso3d_jax.weights.publishing import push_model;"
        f"print(push_model({str(model_folder)!r}, {MODEL!r}, private=True))"
    )
    assert pushed.endswith(f"/commit/{COMMIT}"), pushed
    files = Hub.repos[MODEL]
    assert set(files) == {"README.md", "model.json", folders.WEIGHTS}
    card = files["README.md"].decode()
    assert f'from_pretrained("{MODEL}")' in card and "library_name: iso3d_jax" in card

    files["training_state.bin"] = b"not asked for"
    found = python(FETCH)
    assert found.startswith(str(tmp_path / "hub")), found
    for name in ("model.json", folders.WEIGHTS):
        with open(os.path.join(found, name), "rb") as here, open(model_folder / name, "rb") as own:
            assert here.read() == own.read()
    assert not os.path.exists(os.path.join(found, "training_state.bin"))
    assert folders.model_digest(found) == folders.model_digest(model_folder)


def test_what_was_fetched_serves_without_a_connection(server, model_folder, monkeypatch):
    Hub.repos[MODEL] = {
        name: (model_folder / name).read_bytes() for name in ("model.json", folders.WEIGHTS)
    }
    first = python(FETCH)
    server.shutdown()
    server.server_close()
    assert python(FETCH) == first
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert python(FETCH) == first


def test_what_the_hub_does_not_have_is_one_sentence(server, monkeypatch):
    assert "the hub gave no such repository (RepositoryNotFoundError)" in python(FETCH)
    Hub.repos[MODEL] = {"pytorch_model.bin": b"x"}
    assert "no model of this package: it has no model.json" in python(FETCH)
    server.shutdown()
    server.server_close()
    monkeypatch.setenv("HF_HOME", os.environ["HF_HOME"] + "_new")
    assert "check the name and the connection" in python(FETCH)


def test_folders_come_before_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert hub.is_hub_id("owner/name") and not hub.is_hub_id("runs/stage3")
    for other in ("model", "/a/b", "a/b/c", "~/model", "a b/c"):
        assert not hub.is_hub_id(other)
    with pytest.raises(UserError, match="model folder not found: runs/stage3"):
        folders.find_bundle("runs/stage3")
    with pytest.raises(UserError, match="'name' is no hub id: give owner/name"):
        publishing.push_model(None, "name")
