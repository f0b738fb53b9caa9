"""What this daemon publishes, where several share a store: one sequence of editions, and its last one is everybody's.

A configuration that nobody has published yet becomes the next epoch, at the start or on SIGHUP; who is first decides,
and the others follow. One that was published earlier is old: an operator must say that it is meant. With a store of
its own a daemon always publishes what its configuration says.
"""

from __future__ import annotations

import logging

from zmsd.errors import ConfigError, StoreError
from zmsd.log import kv
from zmsd.schema.catalog import recheck
from zmsd.schema.publication import Publication
from zmsd.watermarks.base import WatermarkStore

log = logging.getLogger(__name__)


class Epochs:
    """For the main thread."""

    def __init__(self, store: WatermarkStore, own: Publication) -> None:
        """Raises StoreError.

        :param own: what the configuration says
        """
        self._store = store
        self._own = own
        self._offers = False
        """``own`` is to be the next epoch."""
        self._overruled_at_start = False
        epochs = store.epochs()
        self.current = own
        """What is to be published."""
        if own.fingerprint not in epochs:
            self._offers = True
        elif epochs[-1] != own.fingerprint:
            self._overruled_at_start = True
            self._follow("an older edition, SIGHUP publishes it nevertheless")

    def settle(self) -> bool:
        """Publish what this daemon offers, if it still may, and look at what holds; whether ``current`` is another now.

        To be called once MongoDB has taken what is offered, and whenever the epochs may have changed. Raises StoreError
        where another daemon has published what this one cannot read.
        """
        before = self.current.fingerprint
        if self._offers:
            try:
                self._offer()
            except StoreError as error:
                log.warning(kv("edition not published", error=error))
        epochs = self._store.epochs()
        if epochs and epochs[-1] != self.current.fingerprint:
            why = (
                "it cannot be published yet"
                if self._offers
                else "another daemon has published another, update this one"
            )
            self._follow(why)
        return self.current.fingerprint != before

    def reload(self, own: Publication) -> None:
        """The configuration was read again. Raises StoreError, and nothing is changed then."""
        epochs = self._store.epochs()
        changed = own.fingerprint != self._own.fingerprint
        if changed or self._offers or self._overruled_at_start or not epochs:
            known, self._own = self._own, own
            try:
                self._offer()
            except StoreError:
                self._own = known
                raise
            self._overruled_at_start = False
        epochs = self._store.epochs()
        if epochs and epochs[-1] != own.fingerprint:
            reason = "another daemon was faster" if changed else "nothing has changed in it since another was published"
            self._follow(f"{reason}; change it, or restart zmsd and then send SIGHUP")
        else:
            self.current = own

    def _offer(self) -> None:
        """Make ``own`` the next epoch, unless there is another by now."""
        own = self._own
        epochs = self._store.epochs()
        if (
            epochs[-1:] != (own.fingerprint,)
            and self._store.append_epoch(own.fingerprint, own.to_json(), epochs)
            and epochs
        ):
            log.info(kv("edition published for all daemons", epoch=len(epochs) + 1, fingerprint=own.fingerprint[:12]))
        self._offers = False

    def _follow(self, reason: str) -> None:
        epochs = self._store.epochs()
        newest = epochs[-1]
        try:
            document = self._store.load_publication(newest)
            if document is None:
                raise ValueError("it is not in the store")
            found = Publication.from_json(document)
            if found.fingerprint != newest:
                raise ValueError("it is understood in another way")
            recheck(found.catalog, f"publication {newest[:12]}")
        except ConfigError as error:
            (first, *_) = str(error).splitlines()
            raise StoreError(f"the daemons on this store publish what this one refuses: {first}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(
                f"edition {newest[:12]}, which the daemons on this store publish, cannot be read ({error}): "
                "upgrade this zmsd"
            ) from error
        self.current = found
        if newest != self._own.fingerprint:
            log.warning(
                kv("this configuration is not what is published", reason=reason, epoch=len(epochs), edition=newest[:12])
            )
