"""The command line: commands, options, and what --help says of them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from zmsd import __version__
from zmsd.config import settings as config

Command = Callable[[argparse.Namespace], int]


def parser(run: Mapping[str, Command]) -> argparse.ArgumentParser:
    """Return the parser. Its result has the function of the command as ``run``, and as ``wrong`` a function that ends
    the process with a usage error.

    :param run: command -> function
    """
    top = argparse.ArgumentParser(
        prog="zmsd",
        description="A custom change source for Rocicorp Zero on MongoDB.",
        epilog="Details: zmsd COMMAND --help; the manual pages zmsd(8) and zmsd.yaml(5).",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"zmsd {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, about: str, example: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            epilog=f"example: {example}",
            allow_abbrev=False,
        )
        added.set_defaults(run=run[name], wrong=added.error)
        return added

    serve = command("run", "serve the changes of a database to zero-cache", "zmsd run --config zmsd.yaml")
    _config_option(serve)

    about = "make the running daemon read its settings again; exit code 78 or 1 with the reason if it refuses them"
    reload = command("reload", about, "zmsd reload --config /etc/zmsd/zmsd.yaml")
    _config_option(reload)
    reload.add_argument("--pid", type=_positive, help="process id of the daemon (default: of the systemd unit)")

    about = "check settings, schema and mappings (exit code 78), then the environment and MongoDB (exit code 1)"
    check = command("check", about, "zmsd check --config zmsd.yaml")
    _config_option(check)
    check.add_argument("--offline", action="store_true", help="do not connect to MongoDB")
    check.add_argument("--strict", action="store_true", help="exit with 1 after a warning, too")
    amount = check.add_mutually_exclusive_group()
    amount.add_argument("--json", action="store_true", help="print one JSON object")
    amount.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    amount.add_argument("--verbose", action="store_true", help="print what is right with each collection, too")
    _colour_option(check)

    about = "show what a start or a reload with the files would do; exit code 2 if clients would have to reset"
    plan = command("plan", about, "zmsd plan --config /etc/zmsd/zmsd.yaml")
    _config_option(plan)
    plan.add_argument("--json", action="store_true", help="print one JSON object")

    about = "write schema.json, mappings.json and zmsd.yaml from a sample of a database"
    infer = command("infer", about, "zmsd infer --uri mongodb://127.0.0.1/chat --out config")
    infer.add_argument("--uri", help="MongoDB URI (default: $MONGODB_URI, which other users cannot see in ps)")
    infer.add_argument("--database", help="database name (default: the one in the URI)")
    infer.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="directory to write to (default: the current one)"
    )
    infer.add_argument(
        "--sample", type=_positive, default=1000, metavar="N", help="documents per collection (default: %(default)s)"
    )
    infer.add_argument("--force", action="store_true", help="overwrite existing files")

    about = "make zmsd.yaml, schema.json and mappings.json of a config.yml of zero-sources"
    imports = command("import", about, "zmsd import config.yml --out config")
    imports.add_argument("file", type=Path, metavar="FILE", help="config.yml of zero-sources")
    imports.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="directory to write to (default: the current one)"
    )
    imports.add_argument("--force", action="store_true", help="overwrite existing files")

    about = "print what a running zmsd sends: the initial sync, then each transaction"
    tail = command("tail", about, "zmsd tail ws://127.0.0.1:3000 | grep user")
    _target_options(tail)
    _shard_options(tail, "zmsd_tail", "the store keeps no record of it")
    _colour_option(tail)
    tail.add_argument("--last-watermark", metavar="W", help="skip the initial sync and start after this watermark")

    about = "test any change source as a strict zero-cache would use it; exit code 1 if a check fails"
    conformance = command("conformance", about, "zmsd conformance ws://127.0.0.1:3000")
    _target_options(conformance)
    _shard_options(conformance, "zmsd_conformance", "not the appID of a zero-cache")
    conformance.add_argument(
        "--seconds",
        type=_positive,
        default=15,
        metavar="N",
        help="how long to read the stream; write to the database meanwhile (default: %(default)s)",
    )
    conformance.add_argument(
        "--patience",
        type=_positive,
        default=60,
        metavar="N",
        help="longest wait for a message that must come, in seconds (default: %(default)s)",
    )

    about = "show the state of a running zmsd; exit code 1 if it is not ready"
    status = command("status", about, "zmsd status http://127.0.0.1:3000")
    _target_options(status)
    form = status.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print /status.json")
    form.add_argument("--watch", action="store_true", help="show the state again every two seconds, until Ctrl-C")
    _colour_option(status)

    about = "compare every row of a replica with MongoDB; exit code 1 if they differ, 2 if they cannot be compared"
    verify = command("verify", about, "zmsd verify --replica /var/lib/zero-cache/replica.db")
    _target_options(verify)
    what = verify.add_mutually_exclusive_group(required=True)
    what.add_argument("--replica", type=Path, metavar="FILE", help="zero-cache's replica (ZERO_REPLICA_FILE)")
    what.add_argument("--stream", action="store_true", help="no file: compare an initial sync that the daemon sends")
    verify.add_argument(
        "--sqlite3", type=Path, metavar="FILE", help="zero-cache's zero-sqlite3 (default: the one in node_modules)"
    )
    verify.add_argument("--json", action="store_true", help="print one JSON object")
    verify.add_argument("--show-values", action="store_true", help="show the values of the columns that differ")
    verify.add_argument(
        "--limit", type=_positive, default=10, metavar="N", help="differences to show per kind (default: %(default)s)"
    )
    verify.add_argument("--metrics", type=Path, metavar="FILE", help="write metrics for node_exporter")

    about = "show the watermark store, copy it to the other kind of store, or remove old replicas from it"
    store = command("store", about, "zmsd store copy --to nats-kv --config zmsd.yaml")
    store.add_argument("action", choices=("show", "copy", "prune"), help="what to do")
    _config_option(store)
    store.add_argument("--to", choices=("sqlite", "nats-kv"), help="kind of store to copy to; required by copy")
    store.add_argument(
        "--days",
        type=_positive,
        default=30,
        metavar="N",
        help="prune replicas without an ack for this many days (default: %(default)s)",
    )

    about = "print a file that zmsd brings: units, example settings, alerts; without a name, list them"
    show = command("show-file", about, "zmsd show-file zmsd.service")
    show.add_argument("name", nargs="?", metavar="NAME", help="name of the file")

    about = "print the completion script of a shell"
    completion = command("completion", about, "zmsd completion bash > /etc/bash_completion.d/zmsd")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")

    about = "run a demo: a MongoDB, a small chat that writes to it, its changes on the terminal"
    demo = command("demo", about, "zmsd demo --seconds 30")
    demo.add_argument("--uri", help="use this MongoDB replica set instead of starting one; writes to its database")
    demo.add_argument("--port", type=_port, default=3000, help="port on 127.0.0.1 to serve on (default: %(default)s)")
    demo.add_argument("--seconds", type=_positive, metavar="N", help="stop after this many seconds")
    return top


def _config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"settings, YAML or JSON (default: {config.DEFAULT_FILE} if it exists)",
    )


def _colour_option(parser: argparse.ArgumentParser) -> None:
    about = "colours; auto: on a terminal, unless NO_COLOR is set (default: %(default)s)"
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help=about)


def _target_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", nargs="?", metavar="URL", help="ws://HOST:PORT or wss://… (default: from the settings)")
    _config_option(parser)
    parser.add_argument("--token", help="token (default: from the settings)")


def _shard_options(parser: argparse.ArgumentParser, app: str, about: str) -> None:
    about = f"appID to connect with (default: %(default)s); {about}"
    parser.add_argument("--app", default=app, metavar="ID", help=about)
    about = "shardNum to connect with (default: %(default)s)"
    parser.add_argument("--shard", type=int, default=0, metavar="N", help=about)


def _positive(text: str) -> int:
    return _number(text, 1, 2**31 - 1)


def _port(text: str) -> int:
    return _number(text, 0, 65535)


def _number(text: str, low: int, high: int) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"must be from {low} to {high}")
    return int(text)
