"""The sequence of publications that the daemons on one store agree on. All of them serve its newest one.

A configuration that is not in the sequence yet becomes its next entry, an *epoch*, at the start or on SIGHUP. The first
daemon to append decides, and the others follow. A configuration that is an earlier epoch is outdated, so only SIGHUP
publishes it again. A daemon that does not share its store always publishes its own configuration.
"""

from __future__ import annotations

import logging

from zmsd.errors import ConfigError, StoreError
from zmsd.log import kv
from zmsd.schema.catalog import recheck
from zmsd.schema.publication import Publication
from zmsd.watermarks.base import WatermarkStore

log = logging.getLogger(__name__)


class PublicationHistory:
    """The publication that this daemon has to serve. Main thread only."""

    def __init__(self, store: WatermarkStore, own: Publication) -> None:
        """Raises StoreError.

        :param own: the publication of this daemon's configuration
        """
        self._store = store
        self._own = own
        self._offers = False
        """Whether ``own`` still has to become the next epoch."""
        self._overruled_at_start = False
        epochs = store.epochs()
        self.current = own
        """The publication to serve."""
        if own.fingerprint not in epochs:
            self._offers = True
        elif epochs[-1] != own.fingerprint:
            self._overruled_at_start = True
            self._follow("this configuration is an older publication; SIGHUP publishes it again")

    def settle(self) -> bool:
        """Append this daemon's publication if it is due, and follow the newest epoch.

        Return whether ``current`` has changed.

        Call it when MongoDB is prepared for the own publication, and whenever the epochs may have changed. Raises
        StoreError if this version of zmsd cannot read the newest epoch.
        """
        before = self.current.fingerprint
        if self._offers:
            try:
                self._offer()
            except StoreError as error:
                log.warning(kv("publication not appended", error=error))
        epochs = self._store.epochs()
        if epochs and epochs[-1] != self.current.fingerprint:
            why = (
                "it cannot be published yet"
                if self._offers
                else "another daemon has published a newer one; update this"
            )
            self._follow(why)
        return self.current.fingerprint != before

    def reload(self, own: Publication) -> None:
        """Take the publication of a reloaded configuration. Raises StoreError, and then changes nothing."""
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
            reason = "another daemon was faster" if changed else "it has not changed since another one was published"
            self._follow(f"{reason}; change it, or restart zmsd and then send SIGHUP")
        else:
            self.current = own

    def _offer(self) -> None:
        """Append ``own`` as the next epoch, unless the sequence has changed since it was read."""
        own = self._own
        epochs = self._store.epochs()
        if (
            epochs[-1:] != (own.fingerprint,)
            and self._store.append_epoch(own.fingerprint, own.to_json(), epochs)
            and epochs
        ):
            log.info(kv("publication appended for all", epoch=len(epochs) + 1, fingerprint=own.fingerprint[:12]))
        self._offers = False

    def _follow(self, reason: str) -> None:
        """Serve the newest epoch.

        :param reason: why the own publication is not served, for the log
        """
        epochs = self._store.epochs()
        newest = epochs[-1]
        try:
            document = self._store.load_publication(newest)
            if document is None:
                raise ValueError("not in the store")
            found = Publication.from_json(document)
            if found.fingerprint != newest:  # a newer zmsd wrote something that this one does not know
                raise ValueError("it has another fingerprint here")
            recheck(found.catalog, f"publication {newest[:12]}")
        except ConfigError as error:
            (first, *_) = str(error).splitlines()
            raise StoreError(f"the newest publication in the watermark store is refused here: {first}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(
                f"publication {newest[:12]}, the newest epoch in the watermark store, cannot be read ({error}): "
                "upgrade this zmsd"
            ) from error
        self.current = found
        if newest != self._own.fingerprint:
            log.warning(kv("serving another publication", reason=reason, epoch=len(epochs), fingerprint=newest[:12]))
