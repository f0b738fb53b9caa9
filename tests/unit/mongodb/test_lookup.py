from __future__ import annotations

from unittest.mock import MagicMock

import pytest
from pymongo import ReadPreference
from pymongo.errors import OperationFailure

from zmsd.errors import SourceUnavailable
from zmsd.mongodb.events import ChangeEvent
from zmsd.mongodb.lookup import Lookup


def test_failed_lookup_does_not_report_the_document_as_deleted() -> None:
    source = MagicMock(preferences=(ReadPreference.PRIMARY,))
    source.find.side_effect = OperationFailure("pending catalog changes", 246)
    event = ChangeEvent({"_data": f"82{5:016X}"}, "update", "a", 1)
    with pytest.raises(SourceUnavailable):
        Lookup(source, "a", None).complete([event], before=False)
    assert event.kind == "update"
