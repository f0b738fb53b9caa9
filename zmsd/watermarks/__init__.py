"""Watermark stores: sqlite for one daemon, NATS KV for several."""

from __future__ import annotations

from zmsd.config.settings import Config
from zmsd.errors import StoreError
from zmsd.watermarks.base import WatermarkStore
from zmsd.watermarks.sqlite import SqliteStore


def open_store(settings: Config, *, serves: bool = False) -> WatermarkStore:
    """Open the store that the settings name. Raises StoreError.

    :param serves: whether a daemon opens it; a sqlite file that another daemon has open is then refused
    """
    if settings.watermarks.storage == "sqlite":
        return SqliteStore(settings.watermarks.path, serves=serves)
    try:
        from zmsd.watermarks.nats import SharedStore
    except ImportError as error:
        raise StoreError(f"watermarks.storage nats-kv needs nats-py ({error}): pip install 'nats-py[nkeys]'") from error
    return SharedStore(settings.nats, settings.mongodb.database)
