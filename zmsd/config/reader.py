"""Build dataclasses from a document and the environment, by the annotations of their fields, and collect all errors.

The settings of zmsd themselves are in config/settings.py.
"""

from __future__ import annotations

import math
import os
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Protocol, TypeVar

from zmsd.config.document import ConfigDocument, KeyPath, dotted, read
from zmsd.errors import ConfigError, ConfigIssue

T = TypeVar("T")

Variables = Mapping[str, tuple[str, str, tuple[str, ...]]]
"""The section and key that an environment variable sets, and the keys of the section that it replaces."""


def setting(default: Any, *, low: float = -math.inf, high: float = math.inf, secret: bool = False, **more: Any) -> Any:
    """Return the field of a setting, with rules for its value. With MISSING as its default it is required.

    :param low: minimum of a number
    :param high: maximum of a number
    :param secret: whether the value stays out of repr and messages
    :param more: ``same``: aliases of a choice. ``credential``: the file is looked for in $CREDENTIALS_DIRECTORY first.
        ``readable``: the file must be readable. ``state``: the default is in $STATE_DIRECTORY, if that is set.
        ``unprintable``: text may have any character. ``inline``: the value is the object around it, as a document.
        ``separated``: an environment variable has a list with commas.
    """
    return field(default=default, repr=not secret, metadata={"low": low, "high": high, "secret": secret, **more})


def kind(value: Any) -> str:
    """Return the kind of a value in words, for messages."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "nothing")


class Credentials(Protocol):
    """systemd credentials, looked up by name."""

    def find(self, name: str) -> Path | None:
        """Return the file of a credential; None where there is none, or this user may not see it."""

    def searched(self, name: str) -> str:
        """Return where ``find`` looks, for an error message; "" for nowhere."""


class CredentialDirectory(Credentials):
    """The credentials of this process, in $CREDENTIALS_DIRECTORY (systemd.exec(5))."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._directory = environ.get("CREDENTIALS_DIRECTORY", "")

    def find(self, name: str) -> Path | None:
        file = Path(self._directory, name)
        return file if self._directory and os.access(file, os.F_OK) else None

    def searched(self, name: str) -> str:
        return self._directory


class Reader:
    """The settings as plain data, in which the environment overrides the file, and the errors found in them.

    ``build`` takes dataclasses whose fields are bool, int, float, str, Path, Literal, tuple[str, ...] (one text will
    do), Mapping[str, str], a dataclass, or any of these ``| None``. A key without a value counts as left out;
    a setting with an error is None in the result.
    """

    def __init__(
        self,
        document: ConfigDocument | None,
        environ: Mapping[str, str],
        variables: Variables,
        hint: str,
        *,
        credentials: Credentials | None = None,
        concerns: Callable[[KeyPath], bool] = lambda path: True,
    ) -> None:
        """Override the document by the environment.

        :param hint: text to add to an error about a missing setting if there is no document
        :param credentials: where to look for credentials, if not in $CREDENTIALS_DIRECTORY
        :param concerns: whether to report an error of the setting at this path
        """
        self.issues: list[ConfigIssue] = []
        self.faulty_paths: set[KeyPath] = set()
        """Key paths of errors, and of everything around them."""
        self.data: dict[str, Any] = dict(document.data) if document else {}
        self._document = document
        self._credentials = credentials or CredentialDirectory(environ)
        self._concerns = concerns
        self._missing: dict[KeyPath, str] = {}
        """Text to add to an error about the file of a setting, because it may have meant a credential."""
        self._state = environ.get("STATE_DIRECTORY", "").partition(":")[0]  # systemd may have several in it
        self._known = variables
        self._hint = hint
        self._variables: dict[KeyPath, str] = {}
        for variable, (section, key, aside) in variables.items():
            if text := environ.get(variable):
                self._overlay(variable, text, section, key, aside)

    def add_issue(self, path: KeyPath, reason: str, *, transient: bool = False) -> None:
        """Record what is wrong with the setting at ``path``; ``transient`` is as of ConfigIssue."""
        self.faulty_paths.update(path[:length] for length in range(len(path) + 1))
        if not self._concerns(path):
            return
        variable = next((name for at, name in self._variables.items() if at == path[: len(at)]), None)
        if variable is None and self._document is not None:
            self.issues.append(replace(self._document.issue(path, reason), transient=transient))
            return
        if variable is None:  # nothing was written: name the variable that would do
            variable = next((name for name, at in self._known.items() if at[: len(path)] == path), None)
            reason += self._hint
        self.issues.append(ConfigIssue("environment", None, None, variable or dotted(path), reason, transient))

    def sound(self, path: KeyPath, *keys: str) -> bool:
        """Return whether none of these keys of the object at ``path`` has an error."""
        return not any((*path, key) in self.faulty_paths for key in keys)

    def secret(self, file: Path, path: KeyPath) -> str:
        """Return the text of ``file``, which the setting at ``path`` names, without white space around it.

        After an error return "".
        """
        try:
            text = read(file).strip()
        except ConfigError as exc:
            for issue in exc.issues:
                self.add_issue(path, f"{file} {issue.reason}{self._missing.get(path, '')}", transient=True)
            return ""
        if not text:
            self.add_issue(path, f"{file} is empty", transient=True)
        return text

    def build(self, cls: type[T], data: dict[str, Any], path: KeyPath = ()) -> T:
        """Return a ``cls`` with the values of ``data``, the object at ``path``; errors go to ``issues``."""
        known = {entry.name: entry for entry in fields(cls)}  # type: ignore[arg-type]
        hints = typing.get_type_hints(cls)
        for key in [key for key in data if key not in known]:
            near = self._document.suggestion(key, known) if self._document else ""
            near = near or f"; known: {', '.join(known)}"
            self.add_issue((*path, key), f"unknown setting{near}")
        values: dict[str, Any] = {}
        for name, entry in known.items():
            here = (*path, name)
            if data.get(name) is not None:
                values[name] = self._convert(hints[name], data[name], here, entry.metadata)
            elif entry.default is MISSING and entry.default_factory is MISSING:
                self.add_issue(here, "is required")
                values[name] = None
            elif is_dataclass(hints[name]):
                values[name] = self.build(hints[name], {}, here)
            elif isinstance(entry.default, Path):
                state = self._state if entry.metadata.get("state") else ""
                values[name] = Path(state, entry.default) if state else self._locate(str(entry.default), here, False)
        return cls(**values)

    def _convert(self, hint: Any, value: Any, path: KeyPath, rules: Mapping[str, Any]) -> Any:
        args, origin = typing.get_args(hint), typing.get_origin(hint)
        if NoneType in args:
            return self._convert(args[0], value, path, rules)
        if rules.get("inline"):
            assert self._document is not None  # no variable sets it
            return self._document.part(path[:-1])
        if origin is Literal:
            value = rules.get("same", {}).get(value, value) if isinstance(value, str) else value
            return value if value in args else self._wrong(f"one of {', '.join(args)}", value, path, rules)
        if origin is tuple:
            if path in self._variables and rules.get("separated"):
                value = [part.strip() for part in value.split(",")]
            if not isinstance(value, list):
                return (self._text(value, path, rules),)
            return tuple(self._text(item, (*path, index), rules) for index, item in enumerate(value))
        if hint is bool:
            return value if isinstance(value, bool) else self._wrong("true or false", value, path, rules)
        if hint in (int, float):
            return self._number(hint, value, path, rules)
        if hint is str:
            return self._text(value, path, rules)
        if hint is Path:
            return self._file(value, path, rules)
        if not isinstance(value, dict):
            return self.add_issue(path, f"must be an object, got {kind(value)}")  # not what: it may be a URI
        if origin is Mapping:
            return {key: self._text(item, (*path, key), rules) for key, item in value.items()}
        return self.build(hint, value, path)

    def _wrong(self, wanted: str, value: Any, path: KeyPath, rules: Mapping[str, Any]) -> None:
        shown = kind(value) if rules.get("secret") or isinstance(value, dict | list) else repr(value)
        self.add_issue(path, f"must be {wanted}, got {shown}")

    def _text(self, value: Any, path: KeyPath, rules: Mapping[str, Any]) -> str | None:
        if not isinstance(value, str):
            self._wrong("text (in quotes)" if isinstance(value, int | float) else "text", value, path, rules)
        elif not value.isprintable() and not rules.get("unprintable"):
            self.add_issue(path, "contains an unprintable character")
        elif not value:
            self.add_issue(path, "must not be empty")
        else:
            return value
        return None

    def _number(self, hint: type, value: Any, path: KeyPath, rules: Mapping[str, Any]) -> Any:
        low, high = rules["low"], rules["high"]
        if path in self._variables and re.fullmatch(r"[0-9]{1,9}", value):
            value = int(value)
        if isinstance(value, int | hint) and not isinstance(value, bool) and low <= value <= high and value != math.inf:
            return hint(value)
        bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        return self._wrong(f"a {'whole ' if hint is int else ''}number {bounds}", value, path, rules)

    def _file(self, value: Any, path: KeyPath, rules: Mapping[str, Any]) -> Path | None:
        text = self._text(value, path, rules)
        if text is None:
            return None
        file = self._locate(text, path, rules.get("credential", False))
        if rules.get("readable"):
            try:
                file.open("rb").close()
            except OSError as exc:
                self.add_issue(
                    path, f"{file} cannot be read: {exc.strerror}{self._missing.get(path, '')}", transient=True
                )
        return file

    def _locate(self, text: str, path: KeyPath, credential: bool) -> Path:
        """Return the file that ``text`` names, relative to the settings file, or from the environment to the cwd."""
        if credential:
            given = self._credentials.find(text)
            if given is not None:
                return given
            if searched := self._credentials.searched(text):
                self._missing[path] = f"; there is no credential {text} either ({searched})"
        if self._document is None or path in self._variables:
            return Path(text)
        return Path(self._document.name).parent / text

    def _overlay(self, variable: str, text: str, section: str, key: str, aside: tuple[str, ...]) -> None:
        old = self.data.get(section) or {}
        if not isinstance(old, dict):
            return  # build() reports this error of the file
        if (section, key) in self._variables:
            if old.get(key) != text:
                self.add_issue((section, key), f"{variable} is set too, to another value; unset one of them")
            return
        for rival in aside:
            if (section, rival) in self._variables:
                self.add_issue((section, rival), f"{variable} is set too; unset one of them")
                return
        self._variables[section, key] = variable
        self.data[section] = {name: kept for name, kept in old.items() if name not in aside} | {key: text}
