"""Load the documents that the settings name: schema, mappings and permissions."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zmsd.config.reader import kind
from zmsd.config.settings import Config, DocumentLocation
from zmsd.errors import ConfigError, ConfigIssue, EndpointDown, ZmsdError
from zmsd.log import kv
from zmsd.schema import fetch
from zmsd.schema.catalog import Catalog, load_catalog
from zmsd.schema.fetch import Fetched

log = logging.getLogger(__name__)


class LoadedDocuments(NamedTuple):
    """The checked documents of one configuration, and the catalog and permissions in them."""

    catalog: Catalog
    permissions: Any
    """Content of zero-cache's permissions row; None without permissions."""
    documents: tuple[tuple[DocumentLocation, Fetched], ...]
    """Location and content of each document."""


_Documents = dict[str, tuple[DocumentLocation, Fetched]]
"""Location and content by name: schema, mappings, permissions."""


def load_documents(settings: Config, *, keep: bool = True, fall_back: bool = True) -> LoadedDocuments:
    """Fetch and check every document. If a URL returns no usable document, use its last good copy and log a warning.

    Raises ConfigError with all errors; EndpointDown if all of them are in documents from URLs.

    :param keep: whether to keep copies of documents from URLs
    :param fall_back: whether a copy also replaces a document in which the check finds an error. A daemon that already
        has a publication keeps that one instead, and reports the error.
    """
    copies = settings.watermarks.path.parent / "documents"
    parts = {"schema": settings.schema, "mappings": settings.mappings, "permissions": settings.zero.permissions}
    specs = {part: spec for part, spec in parts.items() if spec is not None}
    loaded: _Documents = {}
    issues: list[ConfigIssue] = []
    for part, spec in specs.items():
        try:
            loaded[part] = spec, fetch.load(spec, copies)
        except ConfigError as error:
            issues += error.issues
    try:
        found = _check(loaded, specs.keys(), issues)
    except ConfigError as error:
        fallen = _on_copies(loaded, error, copies) if fall_back and not issues else None
        if fallen is None:
            urls = {spec.name for spec in specs.values() if spec.url is not None}
            only_urls = all(issue.path in urls for issue in error.issues)
            raise (EndpointDown if only_urls else ConfigError)(error.issues) from None
        found = fallen
    for spec, fetched in found.documents:
        if fetched.issue is not None:
            age = round(fetched.age or 0.0, 1)
            log.warning(kv("last good copy of a document used", reason=fetched.issue, age_seconds=age))
        elif keep:
            _keep(spec, fetched, copies)
    return found


def _check(loaded: _Documents, wanted: Collection[str], issues: Sequence[ConfigIssue]) -> LoadedDocuments:
    """Check the documents together. Raises ConfigError.

    :param issues: errors of the documents that could not be loaded
    """
    issues = list(issues)
    catalog: Catalog | None = None
    found = {part: fetched.document for part, (_, fetched) in loaded.items()}
    if "schema" in found and ("mappings" in found or "mappings" not in wanted):
        try:
            catalog = load_catalog(found["schema"], found.get("mappings"))
        except ConfigError as error:
            issues += error.issues
    permissions = found.get("permissions")
    if permissions is not None and not isinstance(permissions.data, dict):
        issues.append(permissions.issue((), f"must be an object of permissions, not {kind(permissions.data)}"))
    if issues or catalog is None:
        raise ConfigError(issues)
    return LoadedDocuments(catalog, None if permissions is None else permissions.data, tuple(loaded.values()))


def _on_copies(loaded: _Documents, error: ConfigError, copies: Path) -> LoadedDocuments | None:
    """Return the documents with last good copies instead of those with errors; None if that has errors as well.

    First only the schema is replaced, then all documents with errors, then all documents from URLs: an error in
    mappings may come from a schema of another version.
    """
    first = {issue.path: issue for issue in reversed(error.issues)}
    schema = {loaded["schema"][0].name} & first.keys()
    for names in (schema, first.keys(), {spec.name for spec, _ in loaded.values()}):
        replaced: _Documents = {}
        for part, (spec, fetched) in loaded.items():
            issue = first.get(spec.name, error.issues[0])
            copy = fetch.last_good(spec, copies, issue) if spec.name in names and fetched.issue is None else None
            replaced[part] = spec, copy or fetched
        with contextlib.suppress(ConfigError):
            return _check(replaced, replaced.keys(), ())
    return None


def _keep(spec: DocumentLocation, found: Fetched, copies: Path) -> None:
    try:
        fetch.keep(spec, found.document, copies)
    except ZmsdError as error:
        log.warning(kv("copy not kept", error=error))
