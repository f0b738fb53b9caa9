"""Read zero-cache's SQLite file through zero-cache's own ``zero-sqlite3``: no other SQLite reads its wal2 mode.

The shell gets SQL on stdin and answers on stdout. It stays in one read transaction, so that everything is of one
moment. Values are written as ``n``, ``iDIGITS``, ``rDIGITS`` or ``tHEX``, which loses nothing: ``%!.17g`` tells any two
doubles apart, and hexadecimal digits keep line breaks and NUL characters.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from zmsd.errors import ZmsdError, reason_of
from zmsd.schema.catalog import Table
from zmsd.verify.row_file import RowFile, Shape
from zmsd.verify.values import object_text, stored_text

_END = "zmsd-end"
_BATCH = 10_000
_PACKAGE = Path("node_modules/@rocicorp/zero-sqlite3")
_SEARCHED = (Path("/opt/zero-cache"), Path("/usr/local/lib"), Path("/usr/lib"))
"""Directories with a ``node_modules``: of the shipped unit, and of ``npm install --global``."""


class ReplicaState(NamedTuple):
    """Which replica a file is."""

    app: str
    shard: int
    version: str
    """replicaVersion: watermark of its initial sync."""
    watermark: str
    """Watermark up to which it has everything."""


class ReplicaFile:
    """An open read transaction on a replica's file. For one thread; a context manager."""

    def __init__(self, file: Path, shell: Path) -> None:
        """Raises ZmsdError if the file cannot be read.

        :param shell: the executable zero_sqlite3
        """
        self._file = file
        try:
            self._shell = subprocess.Popen(
                [shell, "-readonly", "-batch", "-bail", file],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise ZmsdError(f"cannot run {shell}: {reason_of(error)} (--sqlite3)") from error

    def __enter__(self) -> ReplicaFile:
        self._ask(".mode list\n.headers off\n.separator ' '\nPRAGMA busy_timeout = 10000;\nBEGIN;")
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self._shell.kill()
        self._shell.communicate()

    def state(self) -> ReplicaState:
        """Return which replica this is. Raises ZmsdError if the file has none."""
        select = 'SELECT replicaVersion, stateVersion FROM "_zero.replicationConfig", "_zero.replicationState";'
        versions = self._ask(select)
        names = self._ask("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%.clients';")
        shards = [name.removesuffix(".clients").rpartition("_") for name in names]
        found = [(app, int(shard)) for app, _, shard in shards if app and shard.isdigit()]
        if len(versions) != 1 or len(found) != 1:
            raise ZmsdError(f"{self._file} is not a complete replica of zero-cache")
        version, watermark = versions[0].split(" ")
        return ReplicaState(*found[0], version, watermark)

    def load(self, tables: Sequence[Table], rows: RowFile) -> Iterator[tuple[str, int]]:
        """Put the rows of published tables into a RowFile, and yield (table, rows so far) now and then.

        Raises ZmsdError if the replica has other tables or columns than these.
        """
        for table in tables:
            name, key = table.name, table.spec.primary_key
            types = self._types(table)
            columns = [column.name for column in table.spec.columns]
            values = ", ".join(map(_value, columns))  # one expression of all would be too deep for SQLite
            count = 0
            with rows.transaction():
                rows.add_table(name, Shape(types, key))
                for line in self._lines(f"SELECT {values} FROM {_name(name)};"):
                    texts = {
                        column: stored_text(types[column], _decoded(value))
                        for column, value in zip(columns, line.split(" "), strict=True)
                    }
                    rows.put(name, object_text({c: texts[c] for c in sorted(key)}), object_text(texts))
                    count += 1
                    if count % _BATCH == 0:
                        yield name, count
            yield name, count

    def _types(self, table: Table) -> dict[str, str]:
        """Return column -> PostgreSQL type of the columns of a published table."""
        name = table.name.replace("'", "''")
        lines = self._ask(f"SELECT 't' || hex(name), type FROM pragma_table_info('{name}');")
        pairs = (line.split(" ", 1) for line in lines)
        found = {str(_decoded(column)): type_.partition("|")[0] for column, type_ in pairs}
        lacking = [column.name for column in table.spec.columns if column.name not in found]
        if lacking:
            what = f"column {lacking[0]} in table {table.name}" if found else f"table {table.name}"
            raise ZmsdError(f"{self._file} has no {what}: it has another publication than the settings")
        # SQLite shows a type of its own, such as TEXT, in capitals.
        return {column.name: found[column.name].lower() for column in table.spec.columns}

    def _ask(self, statements: str) -> list[str]:
        return list(self._lines(statements))

    def _lines(self, statements: str) -> Iterator[str]:
        """Yield the lines that the statements print."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        with suppress(BrokenPipeError):
            self._shell.stdin.write(f"{statements}\n.print {_END}\n")
            self._shell.stdin.flush()
        for line in self._shell.stdout:
            if line == f"{_END}\n":
                return
            yield line.removesuffix("\n")
        assert self._shell.stderr is not None
        lines = self._shell.stderr.read().strip().splitlines() or ["zero-sqlite3 has ended"]
        raise ZmsdError(f"cannot read {self._file}: {lines[-1]}")


def find_shell(given: Path | None, replica: Path, directory: Path) -> Path:
    """Return the executable zero_sqlite3 of a package @rocicorp/zero-sqlite3. Raises ZmsdError.

    npm installs the prebuilt executable without the right to execute it; then a copy in ``directory`` is used.

    :param given: the executable, or the package's ``shell.js``; None: search node_modules
    :param replica: the replica's file, above which to search
    """
    if given is not None:
        script = given.resolve()
        executables = _of_package(script.parent) if script.name == "shell.js" else [given]
    else:
        above = [*Path.cwd().parents, *replica.resolve().parents, *_SEARCHED]
        executables = [file for folder in (Path.cwd(), *above) for file in _of_package(folder / _PACKAGE)]
    found = next((file for file in executables if file.is_file()), None)
    if found is None:
        where = f"{given} is not it" if given else "it is in no node_modules here: name it with --sqlite3"
        raise ZmsdError(f"zero-sqlite3, which reads zero-cache's replica, is missing: {where}")
    if os.access(found, os.X_OK):
        return found
    copy = directory / found.name
    try:
        shutil.copyfile(found, copy)
        copy.chmod(0o700)
    except OSError as error:
        raise ZmsdError(f"cannot copy {found} to {copy}: {reason_of(error)}") from error
    return copy


def _of_package(folder: Path) -> list[Path]:
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return [folder / "build/Release/zero_sqlite3", folder / f"prebuilds/linux-{machine}/zero_sqlite3"]


def _value(column: str) -> str:
    name = _name(column)
    return (
        f"CASE typeof({name}) WHEN 'null' THEN 'n' WHEN 'integer' THEN 'i' || {name}"
        f" WHEN 'real' THEN 'r' || printf('%!.17g', {name}) ELSE 't' || hex({name}) END"
    )


def _decoded(text: str) -> int | float | str | None:
    kind, digits = text[0], text[1:]
    if kind == "n":
        return None
    if kind == "i":
        return int(digits)
    return float(digits) if kind == "r" else bytes.fromhex(digits).decode(errors="replace")


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
