"""The site of docs/, README and docstrings: whole, strict, and nothing of it from elsewhere."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

pytest.importorskip("mkdocs")
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parents[2]
HOOK = ROOT / "docs" / "site" / "repository_pages.py"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    process = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert process.returncode == 0 and not process.stderr, process.stderr
    return folder


class Page(HTMLParser):
    """What a page loads, links to, and can be linked to by."""

    def __init__(self, path: Path):
        super().__init__()
        self.loaded, self.links, self.ids = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids.add(given.get("id"))
        if tag in ("script", "img", "iframe", "source", "video"):
            self.loaded.append(given.get("src"))
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon", "preconnect"):
            self.loaded.append(given["href"])
        if tag == "a":
            self.links.append(given.get("href"))


@pytest.fixture(scope="module")
def pages(site):
    return {path.resolve(): Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_page_of_the_repository_is_in_the_list_of_pages(site, pages):
    listed = {href for href in pages[site / "index.html"].links if href}
    written = {
        str(path.relative_to(ROOT / "docs").with_suffix(".html"))
        for path in (ROOT / "docs").rglob("*.md")
    }
    assert written | {"index.html", "contributing.html", "changelog.html"} <= listed
    assert len(written) > 20


def test_it_loads_nothing_from_elsewhere(site, pages):
    for path, page in pages.items():
        for address in filter(None, page.loaded):
            assert "//" not in address and not address.startswith("data:text"), (path, address)
            assert (path.parent / unquote(address.partition("?")[0])).is_file(), (path, address)
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\([\"']?(https?:)?//", text), path


def test_every_link_leads_somewhere(pages):
    for path, page in pages.items():
        for link in filter(None, page.links):
            if re.match(r"https?:|mailto:", link):
                continue
            address, _, anchor = unquote(link).partition("#")
            target = (path.parent / address).resolve() if address else path
            assert target.is_file(), (path, link)
            if anchor and target in pages and not anchor.startswith("__"):
                assert anchor in pages[target].ids, (path, link)


def test_docstrings_become_sections(site):
    text = (site / "api" / "pipeline.html").read_text(encoding="utf-8")
    assert ":::" not in text
    for words in ("Parameters", "Raises", "Attributes", "Returns"):
        assert re.search(rf"{words}:?</", (site / "api/data.html").read_text() + text), words
    found = re.search(r'id="iso3d_jax.pipeline.Pipeline.views".*?<h3', text, re.DOTALL)
    assert found and "remove_background" in found[0] and "UserError" in found[0]
    assert "Args:" not in text
    text = (site / "api" / "pictures.html").read_text(encoding="utf-8")
    returns = re.search(r'id="[^"]*load_picture".*?Returns.*?<ul>(.*?)</ul>', text, re.DOTALL)
    assert returns and returns[1].count("<li") == 1 and "specks of alpha" in returns[1]


def test_the_public_names_have_their_entries(site):
    import iso3d_jax

    text = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    for name in iso3d_jax.__all__:
        if name != "__version__":
            home = iso3d_jax._HOME[name]
            assert f'id="{home}.{name}"' in text, f"docs/api has no entry of {name}"


def test_it_is_searched_where_it_lies_on_a_disk(site, tmp_path):
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs chromium")
    address = f"{(site / 'index.html').as_uri()}?q=occupancy"
    command = [
        program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000", "--dump-dom", address,
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert re.search(r'md-search-result__meta">\d+ matching', shown)


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("repository_pages", HOOK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "page, written, shown",
    [
        ("index.md", "[a](docs/data.md)", "[a](data.md)"),
        ("index.md", "![a](docs/images/results.png)", "![a](images/results.png)"),
        ("index.md", "[a](CONTRIBUTING.md#x)", "[a](contributing.md#x)"),
        ("scale.md", "[a](../benchmarks/README.md)", "[a](benchmarks.md)"),
        ("start/pod.md", "[a](../scale.md#how-a-run-ends)", "[a](../scale.md#how-a-run-ends)"),
        ("start/pod.md", "[a](../../launch/tpu.sh)", "[a](../files/launch/tpu.sh)"),
        ("benchmarks.md", "[a](../docs/scale.md)", "[a](scale.md)"),
        ("scale.md", "[a](https://x.org/b.md), [c](#here)", "[a](https://x.org/b.md), [c](#here)"),
        ("scale.md", "`[a](no.md)`\n```\n[b](no.md)\n```", "`[a](no.md)`\n```\n[b](no.md)\n```"),
    ],
)
def test_links_work_on_both(hook, page, written, shown):
    assert hook.translate(written, page) == shown


def test_a_link_to_nothing_ends_the_build(hook):
    with pytest.raises(PluginError, match=r"docs/start/pod.md links to ../no.md"):
        hook.translate("[a](../no.md)", "start/pod.md")
