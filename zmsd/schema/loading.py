"""What the settings publish: the catalog of their documents, and the permissions of the application."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

from zmsd.config.document import Document
from zmsd.config.reader import kind
from zmsd.config.settings import Config, SourceConfig
from zmsd.errors import ConfigError, EndpointDown, Fault, ZmsdError
from zmsd.log import kv
from zmsd.schema import fetch
from zmsd.schema.catalog import Catalog, load_catalog
from zmsd.schema.fetch import Fetched

log = logging.getLogger(__name__)


class Publication(NamedTuple):
    catalog: Catalog
    permissions: Any
    """As zero-cache wants them in its permissions row; None for none."""
    documents: tuple[tuple[SourceConfig, Fetched], ...]
    """What they were made of."""


def publication(settings: Config, *, keep: bool = True) -> Publication:
    """Fetch and check every document. Raises ConfigError with all faults; says in the log where a copy was used.

    :param keep: whether to keep copies of what URLs gave
    """
    copies = settings.watermarks.path.parent / "documents"
    faults: list[Fault] = []
    down = False
    fetched: list[tuple[SourceConfig, Fetched]] = []

    def load(spec: SourceConfig | None) -> Document | None:
        nonlocal down
        if spec is None:
            return None
        try:
            found = fetch.load(spec, copies)
        except ConfigError as error:
            down = down or isinstance(error, EndpointDown)
            faults.extend(error.faults)
            return None
        if found.fault is not None:
            log.warning(kv("endpoint down, its last good copy is used", fault=found.fault, age_seconds=found.age))
        fetched.append((spec, found))
        return found.document

    schema, mappings, permissions = load(settings.schema), load(settings.mappings), load(settings.zero.permissions)
    catalog: Catalog | None = None
    if schema is not None and (mappings is not None or settings.mappings is None):
        try:
            catalog = load_catalog(schema, mappings)
        except ConfigError as error:
            faults.extend(error.faults)
    if permissions is not None and not isinstance(permissions.data, dict):
        faults.append(permissions.fault((), f"must be an object of permissions, not {kind(permissions.data)}"))
    if faults or catalog is None:
        # An endpoint may come back, a wrong document stays wrong: only that is for exit code 78.
        raise (EndpointDown if down else ConfigError)(faults)
    for spec, found in fetched:
        if keep and found.age is None:
            _keep(spec, found, copies)
    return Publication(catalog, None if permissions is None else permissions.data, tuple(fetched))


def _keep(spec: SourceConfig, found: Fetched, copies: Path) -> None:
    try:
        fetch.keep(spec, found.document, copies)
    except ZmsdError as error:
        log.warning(kv("copy not kept", error=error))
