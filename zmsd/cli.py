"""The commands and their exit codes: 0 done, 1 failed, 78 wrong configuration. The only ``sys.exit``."""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
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
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a locale may not have a character of a name
    try:
        code: int = options.run(options)
        sys.stdout.flush()  # now, so that the error of a closed pipe is handled below
    except ZmsdError as error:
        return _failed(error)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the process without a traceback
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
    "conformance": _conformance,
    "status": _status,
    "verify": _verify,
    "store": _store,
    "show-file": _show_file,
    "completion": _completion,
    "demo": _demo,
}
