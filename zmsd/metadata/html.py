"""HTML pages for people: each a template with a stylesheet and a script of its own, sent as one document."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from types import MappingProxyType

from zmsd.gateway.http import Page

_DIRECTORY = Path(__file__).with_name("web")
_STYLESHEET = re.compile(r'<link rel="stylesheet" href="([a-z]+\.css)">')
_SCRIPT = re.compile(r'<script src="([a-z]+\.js)"></script>')
_FIELD = re.compile(r"\{\{([a-z]+)\}\}")


class HtmlPage:
    """A page of ``web/``. Thread-safe.

    The browser loads nothing else: stylesheet and script are inserted into the document, and the page's policy allows
    them by their hashes.
    """

    def __init__(self, name: str, *, connects: bool = False) -> None:
        """:param name: of the file in ``web/``
        :param connects: whether its script may send requests to its own origin
        """
        text = _read(name)
        text = _STYLESHEET.sub(lambda match: f"<style>\n{_read(match[1])}</style>", text)
        self._text = _SCRIPT.sub(lambda match: f"<script>\n{_read(match[1])}</script>", text)
        self._headers = {"Content-Security-Policy": content_security_policy(self._text, connects=connects)}

    def page(
        self, values: Mapping[str, str] = MappingProxyType({}), fragments: Mapping[str, str] = MappingProxyType({})
    ) -> Page:
        """Return the page with each ``{{name}}`` replaced.

        :param values: text, which is escaped
        :param fragments: HTML, which is not
        """
        known = {name: escape(value) for name, value in values.items()} | dict(fragments)
        text = _FIELD.sub(lambda match: known[match[1]], self._text)
        return Page(200, "text/html; charset=utf-8", text, self._headers)


def content_security_policy(html: str, *, connects: bool) -> str:
    """Return the policy for a page: only its own scripts and styles, by their hashes.

    :param connects: whether its scripts may send requests to its own origin
    """
    origin = "self" if connects else "none"
    return (
        f"default-src 'none'; script-src {_hashes('script', html)}; style-src {_hashes('style', html)}; "
        f"connect-src '{origin}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(tag: str, html: str) -> str:
    bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies)
    return " ".join(f"'sha256-{each}'" for each in hashes) or "'none'"


def _read(name: str) -> str:
    return (_DIRECTORY / name).read_text(encoding="utf-8")
