"""What the settings publish: the catalog of their documents, and the permissions of the application."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zmsd.config.reader import kind
from zmsd.config.settings import Config, SourceConfig
from zmsd.errors import ConfigError, EndpointDown, Fault, ZmsdError
from zmsd.log import kv
from zmsd.schema import fetch
from zmsd.schema.catalog import Catalog, load_catalog
from zmsd.schema.fetch import Fetched

log = logging.getLogger(__name__)


class LoadedDocuments(NamedTuple):
    """The checked documents of one configuration, and what they give."""

    catalog: Catalog
    permissions: Any
    """As zero-cache wants them in its permissions row; None for none."""
    documents: tuple[tuple[SourceConfig, Fetched], ...]
    """What they were made of."""


_Documents = dict[str, tuple[SourceConfig, Fetched]]
"""By their part: schema, mappings, permissions."""


def load_documents(settings: Config, *, keep: bool = True, fall_back: bool = True) -> LoadedDocuments:
    """Fetch and check every document. Where a URL gives none that can be used, its last good copy is, with a warning in
    the log. Raises ConfigError with all faults; EndpointDown where all of them are in what URLs gave.

    :param keep: whether to keep copies of what URLs gave
    :param fall_back: whether a copy replaces a document, too, in which only the check finds a fault. Where another
        publication is running, that one goes on, and the fault is worth an error.
    """
    copies = settings.watermarks.path.parent / "documents"
    parts = {"schema": settings.schema, "mappings": settings.mappings, "permissions": settings.zero.permissions}
    specs = {part: spec for part, spec in parts.items() if spec is not None}
    loaded: _Documents = {}
    faults: list[Fault] = []
    for part, spec in specs.items():
        try:
            loaded[part] = spec, fetch.load(spec, copies)
        except ConfigError as error:
            faults += error.faults
    try:
        found = _check(loaded, specs.keys(), faults)
    except ConfigError as error:
        fallen = _on_copies(loaded, error, copies) if fall_back and not faults else None
        if fallen is None:
            urls = {spec.name for spec in specs.values() if spec.url is not None}
            only_urls = all(fault.path in urls for fault in error.faults)
            raise (EndpointDown if only_urls else ConfigError)(error.faults) from None
        found = fallen
    for spec, fetched in found.documents:
        if fetched.fault is not None:
            age = round(fetched.age or 0.0, 1)
            log.warning(kv("last good copy of a document used", fault=fetched.fault, age_seconds=age))
        elif keep:
            _keep(spec, fetched, copies)
    return found


def _check(loaded: _Documents, wanted: Collection[str], faults: Sequence[Fault]) -> LoadedDocuments:
    """:param faults: of the documents that could not be loaded"""
    faults = list(faults)
    catalog: Catalog | None = None
    found = {part: fetched.document for part, (_, fetched) in loaded.items()}
    if "schema" in found and ("mappings" in found or "mappings" not in wanted):
        try:
            catalog = load_catalog(found["schema"], found.get("mappings"))
        except ConfigError as error:
            faults += error.faults
    permissions = found.get("permissions")
    if permissions is not None and not isinstance(permissions.data, dict):
        faults.append(permissions.fault((), f"must be an object of permissions, not {kind(permissions.data)}"))
    if faults or catalog is None:
        raise ConfigError(faults)
    return LoadedDocuments(catalog, None if permissions is None else permissions.data, tuple(loaded.values()))


def _on_copies(loaded: _Documents, error: ConfigError, copies: Path) -> LoadedDocuments | None:
    """Return what is published with last good copies in place of a schema with faults, or else of all documents that
    have faults, or else of all that URLs gave: a mapping may be at fault because it goes with another schema.

    Return None where that has faults as well.
    """
    first = {fault.path: fault for fault in reversed(error.faults)}
    schema = {loaded["schema"][0].name} & first.keys()
    for names in (schema, first.keys(), {spec.name for spec, _ in loaded.values()}):
        replaced: _Documents = {}
        for part, (spec, fetched) in loaded.items():
            fault = first.get(spec.name, error.faults[0])
            copy = fetch.last_good(spec, copies, fault) if spec.name in names and fetched.fault is None else None
            replaced[part] = spec, copy or fetched
        with contextlib.suppress(ConfigError):
            return _check(replaced, replaced.keys(), ())
    return None


def _keep(spec: SourceConfig, found: Fetched, copies: Path) -> None:
    try:
        fetch.keep(spec, found.document, copies)
    except ZmsdError as error:
        log.warning(kv("copy not kept", error=error))
