"""One request to MongoDB, tried until it works."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event
from typing import TypeVar

from zmsd.errors import SourceUnavailable, Stopped
from zmsd.log import Repeated
from zmsd.mongodb.errors import backoff

log = logging.getLogger(__name__)

T = TypeVar("T")


def persist(what: str, call: Callable[[], T], stop: Event) -> T:
    """The result of a call, through everything that heals. Raises Stopped once ``stop`` is set, and other
    SourceErrors."""
    waits = backoff()
    repeated = Repeated(log, what)
    while True:
        try:
            result = call()
        except SourceUnavailable as error:
            repeated.failed(error)
            if stop.wait(next(waits)):
                raise Stopped from error
        else:
            repeated.recovered()
            return result
