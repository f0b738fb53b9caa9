"""Looks at the documents behind URLs again, as often as each one's ``refresh`` says."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from threading import Condition, Thread

from zmsd.config.settings import DocumentLocation
from zmsd.errors import ConfigError
from zmsd.log import kv
from zmsd.retry import RetryLog
from zmsd.schema.fetch import NOT_MODIFIED, Fetched, fetch

log = logging.getLogger(__name__)

_REMINDER = 600.0
"""Seconds between two lines in the log about the same endpoint that is down."""


class Refresh:
    """One thread for all of them. ``watch`` may be called from any other."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """:param changed: called, in the thread, when a document is not what it was at the last look"""
        self._changed = changed
        self._condition = Condition()
        self._looks: list[_Look] = []
        self._stopped = False
        self.thread = Thread(target=self._run, name="refresh", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """Does not wait: a look may take its ten seconds."""
        with self._condition:
            self._stopped = True
            self._condition.notify()

    def watch(self, documents: Iterable[tuple[DocumentLocation, Fetched]]) -> None:
        """These from now on, and no others."""
        looks = [_Look(spec, found) for spec, found in documents if spec.url is not None]
        with self._condition:
            self._looks = looks
            self._condition.notify()

    def stale(self) -> dict[tuple[str, ...], float]:
        """Return for each URL 1 while something older is published than what it gives, or it gives nothing; else 0."""
        with self._condition:
            return {(look.name,): float(look.stale) for look in self._looks}

    def _run(self) -> None:
        while (look := self._next()) is not None:
            try:
                differs = look.look()
            except Exception:  # an error of ours must not end the looking
                log.exception(kv("look at a document failed", document=look.name))
                continue
            with self._condition:
                current = look in self._looks  # else a reload meanwhile has seen it too
            if differs and current and not self._stopped:
                log.info(kv("document changed", document=look.name))
                self._changed()

    def _next(self) -> _Look | None:
        """Wait until one is due."""
        with self._condition:
            while not self._stopped:
                first = min(self._looks, key=lambda look: look.due, default=None)
                wait = None if first is None or first.due == math.inf else first.due - time.monotonic()
                if first is not None and wait is not None and wait <= 0:
                    return first
                self._condition.wait(wait)
        return None


class _Look:
    """What is known of one document. For the thread alone."""

    def __init__(self, spec: DocumentLocation, found: Fetched) -> None:
        self.name = spec.name
        self._every = spec.refresh or math.inf  # without refresh only a reload looks
        self.due = time.monotonic() + self._every
        self.stale = found.issue is not None
        self._spec = spec
        self._published = self._text = found.document.text
        self._etag = found.etag
        self._trouble = RetryLog(log, "look at a document", every=_REMINDER)

    def look(self) -> bool:
        """Whether it is another one now. One that is no document at all is said, and is no change."""
        try:
            found = fetch(self._spec, self._etag)
        except ConfigError as error:
            self._trouble.failed(error)
            self.stale = True
            return False
        finally:
            self.due = time.monotonic() + self._every
        self._trouble.recovered(document=self.name)
        before = self._text
        if found is not NOT_MODIFIED:
            self._etag, self._text = found.etag, found.document.text
        self.stale = self._text != self._published
        return before != self._text
