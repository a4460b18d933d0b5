"""What a page owes to people with a keyboard, a screen reader or weak eyes: checks of our own.

`problems` reads a page's HTML alone and is run on every state of every page; axe-core finds more
and is asked where it is to be had (see conftest.py).
"""

import itertools
import re
from html.parser import HTMLParser

VOID = {"meta", "img", "input", "link", "br", "hr"}


class _Page(HTMLParser):
    """Elements in order: (tag, attributes, tags and attributes above, text inside)."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "above": list(self._open), "text": "", "inside": []} | {
            "attrs": dict(attrs)
        }
        for above in self._open:
            above["inside"].append(element)
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        while self._open and self._open.pop()["tag"] != tag:
            pass

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data


def _name(element) -> str:
    """What a screen reader calls a control."""
    attrs = element["attrs"]
    alts = " ".join(e["attrs"].get("alt") or "" for e in element["inside"] if e["tag"] == "img")
    labels = " ".join(e["text"] for e in element["above"] if e["tag"] == "label")
    named = (attrs.get("aria-label"), attrs.get("aria-labelledby"), element["text"], alts, labels)
    return " ".join(filter(None, named)).strip()


def problems(text: str) -> list[str]:
    """What is wrong with a page, in words; empty if nothing is."""
    text = re.sub(r"(<script>).*?(</script>)", r"\1\2", text, flags=re.S)
    elements = _Page(text).elements
    found = []
    of = lambda *tags: [e for e in elements if e["tag"] in tags]  # noqa: E731
    ids = [e["attrs"]["id"] for e in elements if "id" in e["attrs"]]
    found += [f"id {one} twice" for one in set(ids) if ids.count(one) > 1]
    for e in elements:
        for key in ("aria-controls", "aria-labelledby", "aria-describedby", "for"):
            found += [f"{key}={i}" for i in (e["attrs"].get(key) or "").split() if i not in ids]
        if e["attrs"].get("tabindex", "0") not in ("0", "-1"):
            found.append(f"tabindex of {e['tag']}")
    if not (of("html") and of("html")[0]["attrs"].get("lang")):
        found.append("no language")
    if "user-scalable" in text or "maximum-scale" in text:
        found.append("may not be enlarged")
    for tag in ("title", "main", "h1"):
        if len(of(tag)) != 1:
            found.append(f"{len(of(tag))} of {tag}")
    levels = [int(e["tag"][1]) for e in of("h1", "h2", "h3", "h4")]
    found += ["a level of headings left out" for a, b in itertools.pairwise(levels) if b > a + 1]
    found += ["svg without a name" for e in of("svg") if not e["attrs"].get("aria-label")]
    found += ["no alt" for e in of("img") if "alt" not in e["attrs"]]
    controls = of("button", "a", "input", "progress", "model-viewer", "summary")
    found += [f"{e['tag']} without a name" for e in controls
              if not (_name(e) or e["attrs"].get("alt"))]  # fmt: skip
    found += ["th without scope" for e in of("th") if "scope" not in e["attrs"]]
    landmarks = {"header", "main", "footer"}
    outside = [e for e in of("p", "img", "button", "h1", "h2", "a") if not landmarks
               & {a["tag"] for a in e["above"]} and "hidden" not in e["attrs"]]  # fmt: skip
    found += [f"{e['tag']} outside of landmarks" for e in outside]
    for tablist in (e for e in elements if e["attrs"].get("role") == "tablist"):
        tabs = [e for e in tablist["inside"] if e["attrs"].get("role") == "tab"]
        if [t["attrs"]["tabindex"] for t in tabs if t["attrs"]["aria-selected"] == "true"] != ["0"]:
            found.append("not one tab is chosen and reached by Tab")
    for e in of("video"):
        if "muted" not in e["attrs"] or "autoplay" in e["attrs"]:
            found.append("a video that makes noise, or begins unasked")
    return found


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """Of two colours, from 1 to 21 (WCAG 2.2)."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
