"""Random numbers of the tests: the same in each run, and others for each value of ZMSD_TEST_SEED."""

from __future__ import annotations

import os
import random

_SEED = os.environ.get("ZMSD_TEST_SEED", "")


def chance(number: int) -> random.Random:
    """Return a generator of random numbers.

    :param number: distinguishes the generators of one run
    """
    return random.Random(f"{number} {_SEED}" if _SEED else number)
