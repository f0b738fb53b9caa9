"""``zmsd check``: the configuration and its documents, then store, port, certificate and MongoDB."""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from zmsd import log as logs
from zmsd.commands.check_mongodb import Finding, preflight
from zmsd.commands.daemon_client import Target, duration_text, of_config
from zmsd.commands.terminal import Choice, Colours
from zmsd.commands.unit import load_settings
from zmsd.config.settings import Config, TlsConfig
from zmsd.errors import ConfigError, PeerError, StoreError, ZmsdError, reason_of
from zmsd.gateway import tls
from zmsd.log import redact_uri, write_json, write_line
from zmsd.schema.loading import LoadedDocuments, load_documents
from zmsd.watermarks import sqlite_file

EX_CONFIG = 78
"""As in cli.py."""
_WARNING_BYTES, _ERROR_BYTES = 16 << 20, 256 << 10
"""With fewer bytes free on the disk of the store ``check`` warns, or reports an error."""

_SHOWN_COLUMNS = 12
"""Columns of a table that a line for people names."""


class Output(NamedTuple):
    """How findings are printed."""

    json: bool = False
    quiet: bool = False
    """Print no finding of level ok."""
    verbose: bool = False
    """Print what is right with each collection, too."""
    color: Choice = "auto"


def check(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    offline: bool,
    strict: bool = False,
    output: Output = Output(),  # noqa: B008
) -> int:
    """Check everything and print the findings; return the exit code, 1 with an error.

    :param path: the settings file; None for the default file
    :param environ: the environment variables
    :param offline: do not connect to MongoDB
    :param strict: a warning counts as an error
    :param output: how to print
    :raises ConfigError: the configuration itself is wrong
    """
    logs.setup("error")
    report = _Report(output, Colours(output.color, sys.stdout, environ))
    try:
        settings = load_settings(path, environ)
        loaded = load_documents(settings, keep=False)
    except ConfigError as error:
        if not output.json:
            raise
        report.add(Finding("error", str(issue)) for issue in error.issues)
        report.end()
        return 1 if error.transient else EX_CONFIG
    report.add(_of_documents(settings, loaded, output))
    report.add(_around(settings))
    if not offline:
        report.add(preflight(settings, loaded.catalog))
    report.end()
    return 1 if report.counts["error"] or (strict and report.counts["warning"]) else 0


class _Report:
    """Prints findings at once, or all of them as JSON at the end."""

    def __init__(self, output: Output, colours: Colours) -> None:
        self.counts: Counter[str] = Counter()
        self._output = output
        self._colours = colours
        self._found: list[Finding] = []

    def add(self, findings: Iterable[Finding]) -> None:
        """Take findings."""
        for finding in findings:
            self.counts[finding.level] += 1
            if self._output.json:
                self._found.append(finding)
            elif finding.level != "ok" or not (self._output.quiet or (finding.detail and not self._output.verbose)):
                colour = self._colours.begin({"ok": "green", "warning": "yellow"}.get(finding.level, "red"))
                write_line(f": {finding.text}", begin=f"{colour}{finding.level}{self._colours.end}")

    def end(self) -> None:
        """Print the number of errors, and of warnings if there are any."""
        errors, warnings = self.counts["error"], self.counts["warning"]
        if self._output.json:
            findings = [{"level": one.level, "text": one.text} for one in self._found]
            write_json({"errors": errors, "warnings": warnings, "findings": findings})
        elif not self._output.quiet or errors or warnings:
            text = "no errors" if not errors else f"{errors} error{'s' if errors > 1 else ''}"
            write_line(text if not warnings else f"{text}, {warnings} warning{'s' if warnings > 1 else ''}")


def _of_documents(settings: Config, loaded: LoadedDocuments, output: Output) -> Iterator[Finding]:
    yield Finding("ok", f"config: {redact_uri(settings.mongodb.uri)}, database {settings.mongodb.database}")
    for _, found in loaded.documents:
        if found.issue is not None:
            age = "" if found.age is None else f", {duration_text(found.age)} old"
            yield Finding("warning", f"{found.issue}; its last good copy{age}, would be used")
    for warning in loaded.catalog.warnings:
        yield Finding("warning", warning)
    for table in loaded.catalog.tables:
        columns = [f"{column.name} {column.type}" for column in table.spec.columns]
        if len(columns) > _SHOWN_COLUMNS and not (output.verbose or output.json):
            columns[_SHOWN_COLUMNS:] = [f"and {len(columns) - _SHOWN_COLUMNS} more columns (--verbose)"]
        yield Finding("ok", f"table {table.name} from {table.mapping.collection}: {', '.join(columns)}")


def _around(settings: Config) -> Iterator[Finding]:
    port, serves = _port(settings)
    yield _store(settings, serves)
    yield port
    if settings.server.tls is not None:
        yield _tls(settings.server.tls)


def _store(settings: Config, serves: bool) -> Finding:
    """Return the finding about the watermark store.

    :param serves: a zmsd runs with these settings, and uses the store
    """
    if settings.watermarks.storage == "nats-kv":
        if importlib.util.find_spec("nats") is None:
            return Finding("error", "store: watermarks.storage nats-kv needs nats-py: pip install 'nats-py[nkeys]'")
        return Finding("ok", f"store: NATS bucket {settings.nats.bucket} (not connected to)")
    file = settings.watermarks.path.absolute()
    try:
        there = file.exists()
        folder = next((one for one in file.parents if one.exists()), file)
        in_the_way = file if file.is_dir() else None if folder.is_dir() else folder
    except OSError as error:
        return Finding("error", f"store: {file}: {error.strerror} (watermarks.path)")
    if in_the_way is not None:
        return Finding("error", f"store: {file}: {in_the_way} is in the way (watermarks.path)")
    for needed, mode in ((folder, os.W_OK | os.X_OK), *([(file, os.R_OK | os.W_OK)] if there else [])):
        if not os.access(needed, mode):
            return Finding("error", f"store: {file}: this user may not write {needed} (watermarks.path)")
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    full = f"store: {file}: only {free >> 10} KiB are free on its disk: free some space"
    if free < _ERROR_BYTES:  # sqlite may not even read then
        return Finding("error", full)
    if not there:
        return Finding("ok", f"store: {file} will be created")
    try:
        database = sqlite_file.look(file)
    except StoreError as error:
        return Finding("error", f"store: {error}")
    if database not in (None, settings.mongodb.database):
        text = f"belongs to database {database}, not {settings.mongodb.database}: its clients would be reset"
        return Finding("error", f"store: {file}: {text}: set another file (watermarks.path), or the right database")
    if not serves and sqlite_file.is_claimed(file):
        text = "a running zmsd uses it, on another port"
        # A warning only: it may be the daemon that is about to be restarted with this port.
        return Finding(
            "warning", f"store: {file}: {text}: stop it first, or give each zmsd its own file (watermarks.path)"
        )
    if free < _WARNING_BYTES:
        return Finding("warning", full)
    return Finding("ok", f"store: {file}")


def _port(settings: Config) -> tuple[Finding, bool]:
    """Return the finding about the port, and whether a zmsd may be serving with these settings now."""
    host, port = settings.server.host, settings.server.port
    where = f"port: {host}:{port}"
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return Finding("error", f"{where}: {reason_of(error)} (server.host, server.port)"), False
        if _is_zmsd(of_config(settings)):
            return Finding("ok", f"{where}: zmsd serves there now"), True
        advice = "another process uses it: stop that process, or choose another port (server.port)"
        return Finding("error", f"{where}: {advice}"), False
    return Finding("ok", f"{where} is free"), port == 0


def _tls(files: TlsConfig) -> Finding:
    try:
        tls.context(files.cert, files.key)
    except ZmsdError as error:
        return Finding("error", str(error))
    warning = tls.expiry_warning(files.cert, time.time())
    if warning is not None:
        ended = (tls.expiry(files.cert) or 0) <= time.time()
        return Finding("error" if ended else "warning", warning)
    return Finding("ok", f"server.tls: {files.cert}")


def _is_zmsd(target: Target) -> bool:
    try:
        return target.get("/healthz").server.partition("/")[0] == "zmsd"
    except PeerError:
        return False
