"""A thread that reads MongoDB ahead of the thread that uses what it reads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import closing
from threading import Thread
from typing import Generic, TypeVar

from zmsd.channel import Channel
from zmsd.errors import SourceError, SourceUnavailable, Stopped
from zmsd.log import kv

log = logging.getLogger(__name__)

T = TypeVar("T")


def _ignore(error: SourceError) -> None:
    pass


class Producer(Generic[T]):
    """Fill ``channel`` with the items of a generator, in a thread of its own.

    The thread ends with the generator, or once the channel is closed. It closes the generator, and then the channel:
    with the SourceError that ended the generator, if any. An exception that is a bug is logged with its traceback, and
    closes the channel with SourceUnavailable, so that the reader of the channel begins again.
    """

    def __init__(
        self,
        name: str,
        items: Generator[T, None, None],
        limit: int,
        on_error: Callable[[SourceError], None] = _ignore,
    ) -> None:
        """:param name: of the thread
        :param limit: items that wait in the channel; a full channel stops the generator
        :param on_error: called with the error that closes the channel, in the producer's thread
        """
        self.channel: Channel[T] = Channel(limit)
        self.thread = Thread(target=self._run, args=(items, on_error), name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def _run(self, items: Generator[T, None, None], on_error: Callable[[SourceError], None]) -> None:
        error: SourceError | None = None
        try:
            with closing(items):
                for item in items:
                    self.channel.put(item)
        except Stopped:
            pass
        except SourceError as found:
            error = found
        except Exception:
            log.exception(kv("internal error", thread=self.thread.name))
            error = SourceUnavailable(f"internal error of thread {self.thread.name}, see the log")
        finally:
            self.channel.close(error)
            if error is not None:
                on_error(error)
