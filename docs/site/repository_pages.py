"""Pages of the repository outside docs/, and links that work on GitHub and on the site.

Every link in README and docs is relative to the file that it stands in, as GitHub has it. Here
each is turned to where its target is on the site: a page, a picture, or, of other files of the
repository, a copy below `files/`. A link to what is not there ends the build.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
PAGES = {  # of the repository: of the site
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "iso3d_jax/tiny/weights/README.md": "small_model_card.md",
}
HOME = {page: path for path, page in PAGES.items()}
COPIES = "files/"
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(\]\()([^)\s#]+)([^)\n]*\))")


def on_files(files, config):
    """Adds the repository's pages, and copies of the other files that pages link to."""
    for path, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    for file in [file for file in files if file.is_documentation_page()]:
        for path in _targets(file.src_uri):
            if _on_site(path).startswith(COPIES):
                file = File.generated(config, COPIES + path, abs_src_path=str(ROOT / path))
                if file.src_uri not in files.src_uris:
                    files.append(file)
    return files


def on_page_markdown(markdown, page, **_):
    """Turns the links of a page to where their targets are on the site."""
    return translate(markdown, page.file.src_uri)


def translate(markdown: str, page: str) -> str:
    """A page's text with its links as they are to be on the site.

    Args:
      markdown: as it stands in the repository.
      page: where it is on the site, as 'start/pod.md'.

    Raises:
      PluginError: a link to a file that is not there.
    """

    def turn(match):
        path = _target(page, match[2])
        if path is None:
            return match[0]
        if not (ROOT / path).is_file():
            raise PluginError(f"{_source(page)} links to {match[2]}, which is not there")
        return match[1] + posixpath.relpath(_on_site(path), posixpath.dirname(page)) + match[3]

    parts = CODE.split(markdown)
    return "".join(part if k % 2 else LINK.sub(turn, part) for k, part in enumerate(parts))


def _source(page: str) -> str:
    """The file of the repository that a page of the site is from."""
    return HOME.get(page, f"docs/{page}")


def _target(page: str, link: str) -> str | None:
    """The file of the repository that a page's link means; None where it leads elsewhere."""
    if "://" in link or link.startswith(("mailto:", "/")):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(_source(page)), link))


def _targets(page: str):
    parts = CODE.split((ROOT / _source(page)).read_text(encoding="utf-8"))[::2]
    for match in LINK.finditer("".join(parts)):
        path = _target(page, match[2])
        if path is not None and (ROOT / path).is_file():
            yield path


def _on_site(path: str) -> str:
    if path in PAGES:
        return PAGES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else COPIES + path
