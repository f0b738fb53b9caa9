"""HTML pages: one document each, with a policy that allows nothing else, and every value escaped."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from zmsd.metadata import html
from zmsd.metadata.html import HtmlPage, content_security_policy

NAMES = sorted(path.name for path in Path(html.__file__).with_name("web").glob("*.html"))


class Attributes(HTMLParser):
    """Collects every attribute of a document."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, name, value or "") for name, value in attrs]


@pytest.mark.parametrize("name", NAMES)
def test_page_loads_nothing_from_elsewhere(name: str) -> None:
    parser = Attributes()
    parser.feed(HtmlPage(name)._text)
    loaded = [(tag, value) for tag, attribute, value in parser.found if attribute in ("src", "href", "srcset")]
    assert [value for tag, value in loaded if tag != "a"] == ["data:,"], "the icon"
    assert not [name for _, name, _ in parser.found if name == "style" or name.startswith("on")], "its policy forbids"


@pytest.mark.parametrize("name", NAMES)
def test_policy_allows_only_the_hashes_of_the_page(name: str) -> None:
    policy = dict(part.strip().split(" ", 1) for part in HtmlPage(name)._headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["connect-src"] == "'none'"
    for kind in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]{44}'", policy[kind])
    assert "connect-src 'self'" in HtmlPage(name, connects=True)._headers["Content-Security-Policy"]


def test_page_without_script_may_run_none() -> None:
    assert "script-src 'none'" in content_security_policy("<p>text</p>", connects=False)
