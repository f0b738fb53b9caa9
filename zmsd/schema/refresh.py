"""Request the documents behind URLs again, at the interval of each location's ``refresh``."""

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
"""Seconds between two lines in the log about the same endpoint that fails."""


class Refresh:
    """The thread that requests all documents. Its methods are thread-safe."""

    def __init__(self, changed: Callable[[], None], documents: Iterable[tuple[DocumentLocation, Fetched]] = ()) -> None:
        """Prepare to request documents.

        :param changed: called in this thread when a document has changed since the last request
        :param documents: as of ``watch``
        """
        self._changed = changed
        self._condition = Condition()
        self._looks: list[_Look] = []
        self._schema_source = ""
        self._stopped = False
        self.thread = Thread(target=self._run, name="refresh", daemon=True)
        self.watch(documents)

    @property
    def schema_source(self) -> str:
        """Where the schema was read: ``file``, ``url`` or ``inline``."""
        return self._schema_source

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def stop(self) -> None:
        """Stop the thread without waiting for it: a request may take TIMEOUT seconds."""
        with self._condition:
            self._stopped = True
            self._condition.notify()

    def watch(self, documents: Iterable[tuple[DocumentLocation, Fetched]]) -> None:
        """Request these documents from now on, instead of those before. Documents in files are left out.

        :param documents: location and content of each, the schema first
        """
        documents = list(documents)
        looks = [_Look(spec, found) for spec, found in documents if spec.url is not None]
        with self._condition:
            self._schema_source = documents[0][0].source if documents else ""
            self._looks = looks
            self._condition.notify()

    def stale(self) -> dict[tuple[str, ...], float]:
        """Return 1 for each URL that fails, or that has a newer document than the published one; 0 for the others."""
        with self._condition:
            return {(look.name,): float(look.stale) for look in self._looks}

    def _run(self) -> None:
        while (look := self._next()) is not None:
            try:
                differs = look.look()
            except Exception:  # a bug must not end the thread
                log.exception(kv("look at a document failed", document=look.name))
                continue
            with self._condition:
                current = look in self._looks  # else a reload meanwhile has seen it too
            if differs and current and not self._stopped:
                log.info(kv("document changed", document=look.name))
                self._changed()

    def _next(self) -> _Look | None:
        """Wait until a document is due. Return None after `stop`."""
        with self._condition:
            while not self._stopped:
                first = min(self._looks, key=lambda look: look.due, default=None)
                wait = None if first is None or first.due == math.inf else first.due - time.monotonic()
                if first is not None and wait is not None and wait <= 0:
                    return first
                self._condition.wait(wait)
        return None


class _Look:
    """One document and the results of its requests. Refresh thread only, except ``name`` and ``stale``."""

    def __init__(self, spec: DocumentLocation, found: Fetched) -> None:
        self.name = spec.name
        self._every = spec.refresh or math.inf  # without refresh only a reload requests it
        self.due = time.monotonic() + self._every
        self.stale = found.issue is not None
        self._spec = spec
        self._published = self._text = found.document.text
        self._etag = found.etag
        self._trouble = RetryLog(log, "look at a document", every=_REMINDER)

    def look(self) -> bool:
        """Request the document. Return whether it has changed; a failure is logged and is not a change."""
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
