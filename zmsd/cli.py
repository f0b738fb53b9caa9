"""The commands, and the exit codes: 0 done, 1 failed, 78 the configuration is wrong. The only ``sys.exit``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from zmsd import __version__, config, daemon
from zmsd.catalog.publication import publication
from zmsd.errors import ConfigError, ZmsdError
from zmsd.log import redact_uri

EX_CONFIG = 78
"""sysexits.h; the unit does not restart after it."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    sys.exit(_main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except ConfigError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        return EX_CONFIG
    except ZmsdError as error:
        print(f"zmsd: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zmsd", description="A custom change source for Rocicorp Zero on MongoDB.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"zmsd {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="serve the changes of a database", epilog="zmsd run --config zmsd.yaml")
    _config_option(run)
    run.set_defaults(run=lambda options: daemon.run(options.config))

    check = commands.add_parser("check", help="look for faults in config, schema and mappings")
    _config_option(check)
    check.set_defaults(run=_check)

    demo = commands.add_parser("demo", help="see it work: a MongoDB, a small chat, its changes on the terminal")
    demo.add_argument("--uri", help="use this MongoDB (a replica set) instead of starting one; its database is filled")
    demo.add_argument("--port", type=int, default=3000, help="port of 127.0.0.1 to serve on (%(default)s)")
    demo.add_argument("--seconds", type=float, help="end by itself after so many seconds")
    demo.set_defaults(run=_demo)
    return parser


def _config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"YAML or JSON (default: {config.DEFAULT_FILE}, if it is there)"
    )


def _check(options: argparse.Namespace) -> int:
    settings = config.load(options.config, os.environ)
    catalog = publication(settings).catalog
    for warning in catalog.warnings:
        print(f"warning: {warning}")
    for table in catalog.tables:
        columns = ", ".join(f"{column.name} {column.type}" for column in table.spec.columns)
        print(f"ok: table {table.name} from {table.mapping.collection}: {columns}")
    print(f"ok: {redact_uri(settings.mongodb.uri)} database {settings.mongodb.database}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from zmsd.tools.demo import demo  # what only the demo needs is loaded by nothing else

    return demo(options.uri, options.port, options.seconds)
