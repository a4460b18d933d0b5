"""The tests' own browser, where pages follow one another while it asks."""

import pytest

from tests.pages.conftest import PageLeft


@pytest.fixture
def two_pages(tmp_path):
    for name in ("first", "second"):
        (tmp_path / f"{name}.html").write_text(f"<!doctype html><title>{name}</title>")
    return tmp_path


def test_it_waits_across_pages(two_pages, browser):
    """The page goes while a question to it is open, which is no answer and no failure."""
    browser.open(two_pages / "first.html")
    leave = "new Promise(() => { location.href = 'second.html' })"
    browser.wait_for(f"document.title == 'second' || {leave}", 60)
    assert browser.evaluate("document.title") == "second"


def test_a_page_that_goes_is_told_apart_from_an_error(two_pages, browser):
    browser.open(two_pages / "first.html")
    with pytest.raises(PageLeft):
        browser.evaluate("new Promise(() => { location.href = 'second.html' })")
    with pytest.raises(AssertionError, match="ReferenceError"):
        browser.wait_for("NoSuch.thing")
    with pytest.raises(AssertionError, match="never true: false"):
        browser.wait_for("false", 0.3)
