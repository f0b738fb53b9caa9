"""Other versions of Zero, each with a client of its own version: ``make compat``; no part of ``make test``."""

from __future__ import annotations

import pytest

from tests.e2e.test_kill import test_zmsd_and_zero_cache
from tests.e2e.test_reload import test_away
from tests.e2e.test_sync import test_every_value_in_every_column
from tests.support.node import Workspace, zero_workspace

__all__ = ["test_away", "test_every_value_in_every_column", "test_zmsd_and_zero_cache"]

VERSIONS = ["0.25.13", "1.0.0", "1.4.0", "1.9.0"]


@pytest.fixture(scope="session", name="workspace", params=VERSIONS)
def _workspace(request: pytest.FixtureRequest) -> Workspace:
    return zero_workspace(request.param)
