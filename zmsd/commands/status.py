"""``zmsd status``: ``/status.json`` of a running daemon, rendered for a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from zmsd.commands.daemon_client import Target, duration_text
from zmsd.commands.terminal import CLEAR_SCREEN, Colours, bar
from zmsd.errors import PeerError
from zmsd.gateway.tls import EXPIRY_WARNING_SECONDS
from zmsd.log import write_json, write_line

Data = dict[str, Any]

_REJECTS = 5
"""The newest rejected rows that are shown."""


_WATCH_SECONDS = 2.0
"""Between two looks; the daemon samples its parts as often."""


def status(target: Target, colours: Colours, *, as_json: bool = False, watch: bool = False) -> int:
    """Print the state of a daemon, and return the exit code: 0 if it is ready, else 1.

    :param as_json: print what the daemon answers
    :param watch: print the state again and again, until Ctrl-C
    :raises PeerError: the daemon does not answer, or refuses the token; with ``watch`` only at the first look
    """
    data = _fetch(target)
    if as_json:
        write_json(data)
        return 0 if data.get("ready") else 1
    if not watch:
        _print(data, colours)
        return 0 if data.get("ready") else 1
    live = sys.stdout.isatty()
    while True:
        if live:
            write_line("", begin=CLEAR_SCREEN, end="")
        _print(data, colours)
        time.sleep(_WATCH_SECONDS)
        try:
            data = _fetch(target)
        except PeerError as error:  # the daemon may be restarting
            data = {"state": f"no answer: {error}"}
        if not live:
            write_line("")


def _print(data: Data, colours: Colours) -> None:
    colour = colours.begin("green" if data.get("ready") else "red")
    for number, line in enumerate(render(data)):
        if number == 0:
            write_line(line, begin=colour, end=f"{colours.end}\n")
        elif line.startswith("warning: "):
            write_line(line, begin=colours.begin("yellow"), end=f"{colours.end}\n")
        else:
            write_line(line.rstrip())


def _fetch(target: Target) -> Data:
    """Return /status.json. Raises PeerError."""
    answer = target.get("/status.json")
    if answer.status == 401:
        raise PeerError(f"{target}: wrong or missing token (--token, or --config with the daemon's settings)")
    try:
        data = json.loads(answer.body)
        if answer.status != 200 or not isinstance(data, dict):
            raise ValueError
    except ValueError:
        text = f"{target} answers HTTP {answer.status} to /status.json: check that zmsd is running there"
        raise PeerError(text) from None
    return data


def render(data: Data) -> Iterator[str]:
    """Yield the lines of the report; ``-`` stands for a value that is missing or unknown."""
    yield f"zmsd {_get(data, 'version')}: {_get(data, 'state')}"
    facts = [f"database {_get(data, 'database')}", f"MongoDB {_get(data, 'mongodb')}"]
    if isinstance(data.get("now"), float) and isinstance(data.get("started"), float):
        facts.append(f"up {duration_text(data['now'] - data['started'])}")
    yield ", ".join([*facts, f"{_size(data.get('memory_bytes'))} of memory"])
    lost = _seconds(data.get("oplog_headroom"))
    if data.get("oplog_headroom") is None and data.get("oplog_note"):
        lost += f" ({data['oplog_note']})"
    behind = "up to date" if data.get("behind_seconds") == 0 else f"{_seconds(data.get('behind_seconds'))} behind"
    yield f"position {_get(data, 'watermark')}, {behind}; oplog headroom {lost}"
    end, now = data.get("certificate_end"), data.get("now")
    if isinstance(end, int) and isinstance(now, float) and end - now < EXPIRY_WARNING_SECONDS:
        yield f"the server's TLS certificate {'expired' if end < now else 'expires'} {_clock(end)}"
    if data.get("store_trouble"):
        yield f"the watermark store cannot be written: {data['store_trouble']}"
    for problem in data.get("problems") or ():
        yield f"warning: {_get(problem, 'name')} {_get(problem, 'reason')}"
    reload = data.get("last_reload")
    if isinstance(reload, dict):
        errors = reload.get("faults") or ()
        yield f"last reload {_clock(reload.get('when'))}: {'refused' if errors else 'done'}"
        yield from (f"  {error}" for error in errors)
        if reload.get("restart"):
            yield f"  a restart is needed for: {', '.join(map(str, reload['restart']))}"
    yield from _table(
        ("collection", "events", "per second", "lag", "queue", "images", "tables"),
        (
            (
                *(_get(one, "name"), _number(one.get("events")), _number(one.get("rate")), _seconds(one.get("lag"))),
                *(_queue(one.get("queue")), "on" if one.get("images") else "off", ", ".join(one.get("tables", ()))),
            )
            for one in data.get("collections", ())
        ),
    )
    yield from _table(
        ("client", "address", "state", "rows", "sent", "confirmed", "backlog", "replica"),
        (
            (
                *(f"{_get(one, 'app')}/{_get(one, 'shard')}", _get(one, "address"), _state(one)),
                *(_number(one.get("rows")), _get(one, "sent"), _ago(one.get("acked_age"))),
                *(_seconds(one.get("backlog_seconds")), _get(one, "replica")),
            )
            for one in data.get("sessions", ())
        ),
    )
    rejected = data.get("rejected") or {}
    counts = rejected.get("counts", ())
    yield from _table(
        ("rejected in table", "count", "effect", "reason"),
        ((_get(one, "table"), _number(one.get("count")), _get(one, "effect"), _get(one, "reason")) for one in counts),
    )
    for one in rejected.get("newest", ())[:_REJECTS]:
        known = {key: value for key, value in one.items() if value is not None}
        yield "  " + " ".join(f"{key}={_clock(value) if key == 'when' else value}" for key, value in known.items())


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield an empty line, then the rows in columns; nothing without rows."""
    lines = [[head.upper() for head in heads], *rows]
    if len(lines) == 1:
        return
    widths = [max(len(line[index]) for line in lines) for index in range(len(heads))]
    yield ""
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))


def _get(data: Data, key: str) -> str:
    value = data.get(key)
    return "-" if value is None else str(value)


def _state(session: Data) -> str:
    copy = session.get("copy")
    if not isinstance(copy, dict):
        return _get(session, "state")
    done, of = copy.get("documents") or 0, copy.get("estimated") or 0
    left = f", {duration_text(copy['eta_seconds'])} left" if copy.get("eta_seconds") is not None else ""
    if not of:
        return "copying"
    return f"copying {_get(copy, 'collection')} {bar(done / of)} {min(done / of, 1):.0%}{left}"


def _number(value: Any) -> str:
    if not isinstance(value, (int, float)):
        return "-"
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def _queue(value: Any) -> str:
    return f"{value[0]}/{value[1]}" if isinstance(value, list) and len(value) == 2 else "-"


def _seconds(value: Any) -> str:
    if not isinstance(value, (int, float)):
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else duration_text(value)


def _ago(value: Any) -> str:
    return "-" if not isinstance(value, (int, float)) else f"{_seconds(value)} ago"


def _size(value: Any) -> str:
    return f"{value / 2**20:.0f} MiB" if isinstance(value, (int, float)) else "-"


def _clock(value: Any) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value)) if isinstance(value, (int, float)) else "-"
