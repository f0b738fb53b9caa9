"""The commands and their exit codes: 0 done, 1 failed, 78 wrong configuration. The only ``sys.exit``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from zmsd import command_line, daemon, systemd
from zmsd import log as logs
from zmsd.config.partial import load_log
from zmsd.config.settings import ignored_variables
from zmsd.errors import ConfigError, ZmsdError
from zmsd.log import kv, write_line

logger = logging.getLogger(__name__)

EX_CONFIG = 78
"""A configuration error that only a change to a file corrects (sysexits.h). The unit is not restarted after it."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and end the process with its exit code.

    :param arguments: the command line without the program's name; None: of this process
    """
    sys.exit(_main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()  # now, so that the error of a closed pipe is handled below
    except ZmsdError as error:
        return _failed(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of the output is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _failed(error: ZmsdError, log_format: logs.Format = "text") -> int:
    """Write an error to stderr and return its exit code.

    :param log_format: json writes log records, for which logging must be set up
    """
    for line in [str(issue) for issue in error.issues] if isinstance(error, ConfigError) else [f"error: {error}"]:
        if log_format == "json":
            logger.error(kv("start failed", error=line.removeprefix("error: ")))
        else:
            write_line(line, sys.stderr, begin=logs.priority_prefix(logging.ERROR, sys.stderr))
    return EX_CONFIG if isinstance(error, ConfigError) and not error.transient else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zmsd",
        description="A custom change source for Rocicorp Zero on MongoDB.",
        epilog="Details: zmsd COMMAND --help; the manual pages zmsd(8) and zmsd.yaml(5).",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"zmsd {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Command, about: str, example: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            epilog=f"example: {example}",
            allow_abbrev=False,
        )
        added.set_defaults(run=run, wrong=added.error)
        return added

    run = command("run", _run, "serve the changes of a database to zero-cache", "zmsd run --config zmsd.yaml")
    _config_option(run)

    about = "make the running daemon read its settings again; exit code 78 or 1 with the reason if it refuses them"
    reload = command("reload", _reload, about, "zmsd reload --config /etc/zmsd/zmsd.yaml")
    _config_option(reload)
    reload.add_argument("--pid", type=_positive, help="process id of the daemon (default: of the systemd unit)")

    about = "check settings, schema and mappings (exit code 78), then the environment and MongoDB (exit code 1)"
    check = command("check", _check, about, "zmsd check --config zmsd.yaml")
    _config_option(check)
    check.add_argument("--offline", action="store_true", help="do not connect to MongoDB")

    about = "show what a start or a reload with the files would do; exit code 2 if clients would have to reset"
    plan = command("plan", _plan, about, "zmsd plan --config /etc/zmsd/zmsd.yaml")
    _config_option(plan)
    plan.add_argument("--json", action="store_true", help="print one JSON object")

    about = "write schema.json and mappings.json from a sample of a database"
    infer = command("infer", _infer, about, "zmsd infer --uri mongodb://127.0.0.1/chat --out config")
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
    imports = command("import", _import, about, "zmsd import config.yml --out config")
    imports.add_argument("file", type=Path, metavar="FILE", help="config.yml of zero-sources")
    imports.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="directory to write to (default: the current one)"
    )
    imports.add_argument("--force", action="store_true", help="overwrite existing files")

    about = "print what a running zmsd sends: the initial sync, then each transaction"
    tail = command("tail", _tail, about, "zmsd tail ws://127.0.0.1:3000 | grep user")
    _target_options(tail)
    tail.add_argument(
        "--app",
        default="zmsd_tail",
        metavar="ID",
        help="appID to connect with (default: %(default)s); not the appID of a zero-cache",
    )
    tail.add_argument(
        "--shard", type=int, default=0, metavar="N", help="shardNum to connect with (default: %(default)s)"
    )
    tail.add_argument("--last-watermark", metavar="W", help="skip the initial sync and start after this watermark")

    about = "test any change source as a strict zero-cache would use it; exit code 1 if a check fails"
    conformance = command("conformance", _conformance, about, "zmsd conformance ws://127.0.0.1:3000")
    _target_options(conformance)
    conformance.add_argument(
        "--app",
        default="zmsd_conformance",
        metavar="ID",
        help="appID to connect with (default: %(default)s); not the appID of a zero-cache",
    )
    conformance.add_argument(
        "--shard", type=int, default=0, metavar="N", help="shardNum to connect with (default: %(default)s)"
    )
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
    status = command("status", _status, about, "zmsd status http://127.0.0.1:3000")
    _target_options(status)

    about = "compare every row of a replica with MongoDB; exit code 1 if they differ, 2 if they cannot be compared"
    verify = command("verify", _verify, about, "zmsd verify --replica /var/lib/zero-cache/replica.db")
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
    store = command("store", _store, about, "zmsd store copy --to nats-kv --config zmsd.yaml")
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
    show = command("show-file", _show_file, about, "zmsd show-file zmsd.service")
    show.add_argument("name", nargs="?", metavar="NAME", help="name of the file")

    about = "run a demo: a MongoDB, a small chat that writes to it, its changes on the terminal"
    demo = command("demo", _demo, about, "zmsd demo --seconds 30")
    demo.add_argument("--uri", help="use this MongoDB replica set instead of starting one; writes to its database")
    demo.add_argument("--port", type=_port, default=3000, help="port on 127.0.0.1 to serve on (default: %(default)s)")
    demo.add_argument("--seconds", type=_positive, metavar="N", help="stop after this many seconds")
    return parser


def _config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"settings, YAML or JSON (default: {config.DEFAULT_FILE} if it exists)",
    )


def _target_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", nargs="?", metavar="URL", help="ws://HOST:PORT or wss://… (default: from the settings)")
    _config_option(parser)
    parser.add_argument("--token", help="token (default: from the settings)")


def _positive(text: str) -> int:
    return _number(text, 1, 2**31 - 1)


def _port(text: str) -> int:
    return _number(text, 0, 65535)


def _number(text: str, low: int, high: int) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"must be from {low} to {high}")
    return int(text)
    return command_line.parser(_COMMANDS)


# Each command imports what it needs when it runs, so that the others start faster.


def _run(options: argparse.Namespace) -> int:
    log = load_log(options.config, os.environ)
    logs.setup(log.level, log.format)
    if ignored := ignored_variables(os.environ):
        logger.info(kv("environment variables without effect", names=",".join(ignored)))
    try:
        return daemon.run(options.config)
    except ZmsdError as error:
        code = _failed(error, log.format)
    except Exception:
        logger.critical(kv("zmsd failed, this is a bug"), exc_info=True)
        code = 1
    if code == 1:
        systemd.pause_before_restart()
    return code


def _reload(options: argparse.Namespace) -> int:
    from zmsd.commands.reload import reload

    return reload(options.config, os.environ, options.pid)


def _check(options: argparse.Namespace) -> int:
    from zmsd.commands.check import Output, check

    output = Output(json=options.json, quiet=options.quiet, verbose=options.verbose, color=options.color)
    return check(options.config, os.environ, offline=options.offline, strict=options.strict, output=output)


def _plan(options: argparse.Namespace) -> int:
    from zmsd.commands.plan import plan

    return plan(options.config, os.environ, options.json)


def _infer(options: argparse.Namespace) -> int:
    from zmsd.commands.infer import infer

    uri = options.uri or os.environ.get("MONGODB_URI", "")
    if not uri:
        options.wrong("give --uri, or set MONGODB_URI")
    return infer(uri, options.database, options.out, options.sample, options.force)


def _import(options: argparse.Namespace) -> int:
    from zmsd.commands.import_config import import_config

    return import_config(options.file, options.out, options.force)


def _tail(options: argparse.Namespace) -> int:
    from zmsd.commands.daemon_client import target
    from zmsd.commands.tail import tail
    from zmsd.commands.terminal import Colours

    found = target(options.url, options.config, options.token, os.environ)
    colours = Colours(options.color, sys.stdout, os.environ)
    return tail(found, options.app, options.shard, options.last_watermark, colours)


def _conformance(options: argparse.Namespace) -> int:
    from zmsd.commands.conformance import conformance
    from zmsd.commands.daemon_client import target

    found = target(options.url, options.config, options.token, os.environ)
    return conformance(found, options.app, options.shard, options.seconds, options.patience)


def _status(options: argparse.Namespace) -> int:
    from zmsd.commands.daemon_client import target
    from zmsd.commands.status import status
    from zmsd.commands.terminal import Colours

    daemon = target(options.url, options.config, options.token, os.environ)
    return status(daemon, Colours(options.color, sys.stdout, os.environ), as_json=options.json, watch=options.watch)


def _verify(options: argparse.Namespace) -> int:
    from zmsd.commands.verify import Options, verify

    return verify(
        Options(
            config=options.config,
            url=options.url,
            token=options.token,
            replica=options.replica,
            sqlite3=options.sqlite3,
            metrics=options.metrics,
            show_values=options.show_values,
            json=options.json,
            limit=options.limit,
        ),
        os.environ,
    )


def _store(options: argparse.Namespace) -> int:
    from zmsd.commands import store

    if options.action == "show":
        return store.show(options.config, os.environ)
    if options.action == "prune":
        return store.prune(options.config, os.environ, options.days)
    if options.to is None:
        options.wrong("copy needs --to sqlite or --to nats-kv")
    return store.copy(options.config, os.environ, options.to)


def _show_file(options: argparse.Namespace) -> int:
    from zmsd.commands.show_file import show_file

    return show_file(options.name)


def _completion(options: argparse.Namespace) -> int:
    from zmsd.commands.completion import completion

    return completion(options.shell, _parser())


def _demo(options: argparse.Namespace) -> int:
    from zmsd.demo.demo import demo

    return demo(options.uri, options.port, options.seconds)


_COMMANDS: dict[str, command_line.Command] = {
    "run": _run,
    "reload": _reload,
    "check": _check,
    "plan": _plan,
    "infer": _infer,
    "import": _import,
    "tail": _tail,
    "status": _status,
    "verify": _verify,
    "store": _store,
    "show-file": _show_file,
    "completion": _completion,
    "demo": _demo,
}
