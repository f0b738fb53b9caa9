"""The store that the settings name."""

from __future__ import annotations

from zmsd.config.settings import Config
from zmsd.errors import StoreError
from zmsd.watermarks.base import WatermarkStore
from zmsd.watermarks.sqlite import SqliteStore


def open_store(settings: Config, *, serves: bool = False) -> WatermarkStore:
    """Raises StoreError.

    :param serves: it is for a daemon: what only one of them may use, no other one may have meanwhile
    """
    if settings.watermarks.storage == "sqlite":
        return SqliteStore(settings.watermarks.path, serves=serves)
    try:
        from zmsd.watermarks.nats import SharedStore
    except ImportError as error:
        raise StoreError(f"watermarks.storage nats-kv needs nats-py ({error}): pip install 'nats-py[nkeys]'") from error
    return SharedStore(settings.nats, settings.mongodb.database)
