"""The MongoDB URI of the settings: the database that it names, and what is wrong with it or with the files it names.

The driver reads the files of the TLS options when a client is constructed, and reports a problem as whatever it met:
OSError, ssl.SSLError, KeyError. This module constructs a client, which does not connect, to find that out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from pymongo import MongoClient, uri_parser
from pymongo.errors import PyMongoError

_PASSWORD = "tlsCertificateKeyFilePassword"
_FILES = {
    "tlsCAFile": "is not a PEM file with certificates",
    "tlsCertificateKeyFile": f"is not a PEM file with a certificate and its private key, or {_PASSWORD} is wrong",
    "tlsCRLFile": "is not a PEM file with a revocation list",
}
"""The options that name a file, and what is wrong with a file that can be read and not be used."""
_READ_CONCERNS = ("local", "available", "majority")
"""The levels that are honoured: zmsd reads at majority or from a snapshot, which is at least as strong."""


def database_of(uri: str) -> str:
    """Return the database that a URI names, or "". Raises ValueError with what is wrong, without the URI's secrets."""
    try:
        return _check(uri)
    except Exception as error:  # the driver's own (see above)
        raise ValueError(why_not(uri, error)) from None


def client_options(uri: str) -> dict[str, Any]:
    """Return the options that a MongoClient of the URI needs besides its own: an empty password for a private key, with
    which OpenSSL refuses an encrypted key instead of asking the terminal for the password."""
    named = {name.lower() for name, _ in _options(uri)}
    lacks_password = "tlscertificatekeyfile" in named and _PASSWORD.lower() not in named
    return {_PASSWORD: ""} if lacks_password else {}


def why_not(uri: str, error: Exception) -> str:
    """Return what is wrong with a URI, given what the driver has raised. The text holds none of the URI's secrets."""
    before, at, after = uri.rpartition("@")
    if at and not _is_read(uri):
        # The driver's text may quote the user and password: it is asked about the URI without them.
        uri = f"{before.partition('://')[0]}://user:password@{after}"
        try:
            _check(uri)
        except Exception as other:
            error = other
        else:
            return "the user name and password must be percent-encoded"
    text = " ".join(str(error).split()).removesuffix(" Refer to docstring.")
    if text.startswith("Unknown option") and (name := _unknown_option(uri)):
        return text.replace("option", f"option {name}", 1)
    if isinstance(error, (PyMongoError, ValueError)) and "Private key" not in text:
        return text
    return _wrong_file(uri) or _wrong_value(uri) or "the driver does not accept it"


def _check(uri: str) -> str:
    """Return the database that ``uri`` names, or "". Raises any Exception. Asks no DNS: a network that is down is not a
    problem of the URI."""
    if uri.startswith("mongodb+srv://"):
        uri, _, options = uri.replace("+srv", "", 1).partition("?")
        kept = [option for option in options.split("&") if not option.lower().startswith("srv")]
        if not any(option.lower().startswith(("tls=", "ssl=")) for option in kept):
            kept.append("tls=true")
        uri += "?" + "&".join(option for option in kept if option)
    parsed = uri_parser.parse_uri(uri)
    options = parsed["options"]
    level = options.get("readConcernLevel", "local")
    if level not in _READ_CONCERNS:
        raise ValueError(f"readConcernLevel={level} cannot be honoured, zmsd reads at level majority: remove it")
    if options.get("directConnection") and options.get("readPreference") == "secondary":
        raise ValueError(
            "readPreference=secondary cannot be honoured with directConnection=true: remove directConnection"
        )
    if options.get("loadBalanced"):
        raise ValueError("loadBalanced=true cannot be honoured, zmsd has to choose the server of a cursor: remove it")
    if parsed["collection"]:
        raise ValueError("the name of a database has no dot: end the URI with /DATABASE")
    MongoClient(uri, connect=False, **client_options(uri)).close()
    return parsed["database"] or ""


def _is_read(uri: str) -> bool:
    try:
        uri_parser.parse_uri(uri.replace("mongodb+srv://", "mongodb://", 1).partition("?")[0])
    except Exception:
        return False
    return True


def _wrong_file(uri: str) -> str | None:
    given = dict(_options(uri))
    for option, problem in _FILES.items():
        path = next((value for name, value in given.items() if name.lower() == option.lower()), None)
        if path is None:
            continue
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            return f"{option}: {path}: {error.strerror}"
        password = next((value for name, value in given.items() if name.lower() == _PASSWORD.lower()), "")
        options: dict[str, Any] = {option: path}
        if option == "tlsCertificateKeyFile":
            options[_PASSWORD] = password
        try:
            MongoClient("mongodb://localhost/", connect=False, tls=True, **options).close()
        except Exception:
            return f"{option}: {path} {problem}"
    return None


def _unknown_option(uri: str) -> str | None:
    """Return the option that the driver does not know. It hides the name, which may be a part of a password."""
    names = [name for name, _ in _options(uri)] if "@" not in uri.partition("?")[2] else []
    return next((name for name in names if name.isalpha() and not _is_known(name)), None)


def _is_known(name: str) -> bool:
    try:
        uri_parser.parse_uri(f"mongodb://localhost/?{name}=")
    except Exception as error:
        return "Unknown option" not in str(error)
    return True


def _wrong_value(uri: str) -> str | None:
    for name, value in _options(uri):
        try:
            uri_parser.parse_uri(f"mongodb://localhost/?{name}={value}")
        except Exception:
            return f"the value of {name} is not valid"
    return None


def _options(uri: str) -> Iterator[tuple[str, str]]:
    for option in re.split("[&;]", uri.partition("?")[2]):
        name, _, value = option.partition("=")
        yield name, unquote(value)
