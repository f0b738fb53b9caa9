"""Types of the fixtures that tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymongo.database import Database

from tests.support.client import ChangeSourceClient
from tests.support.daemon import ZmsdProcess

Db = Database[dict[str, Any]]
"""A database, as the fixture ``database`` gives it."""

Serve = Callable[..., ZmsdProcess]
"""The fixture ``serve``: start zmsd on the test's database."""

Follow = Callable[..., ChangeSourceClient]
"""The fixture ``follow``: connect a client to a zmsd."""
