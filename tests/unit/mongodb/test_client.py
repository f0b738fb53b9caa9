from __future__ import annotations

from datetime import datetime
from pathlib import Path

import bson
import pytest
from bson import DBRef
from bson.datetime_ms import DatetimeMS
from pymongo.errors import AutoReconnect, PyMongoError

from zmsd.errors import SourceRefused, SourceUnavailable
from zmsd.mongodb.client import CODEC, classified_errors, client_factory, unwrap_dbrefs
from zmsd.mongodb.members import MemberSelector


def test_codec_decodes_dates_beyond_year_9999_and_invalid_utf8() -> None:
    data = bson.encode({"near": datetime(2024, 1, 1), "far": DatetimeMS(2**50), "text": "xyz"})
    found = bson.decode(data.replace(b"xyz", b"x\xff\xfe"), CODEC)
    assert found == {"near": datetime(2024, 1, 1), "far": DatetimeMS(2**50), "text": "x\ufffd\ufffd"}


def test_client_options_of_the_uri_win_over_the_defaults_but_not_over_the_deadlines() -> None:
    uri = "mongodb://127.0.0.1:1/db?connectTimeoutMS=7000&socketTimeoutMS=1&timeoutMS=1"
    client = client_factory(uri, MemberSelector())()
    try:
        assert client.options.pool_options.connect_timeout == 7
        assert client.options.pool_options.socket_timeout == 10
        assert client.options.timeout is None
        assert client.options.server_selection_timeout == 5
    finally:
        client.close()


def test_client_whose_ca_file_is_missing_is_unavailable(tmp_path: Path) -> None:
    uri = f"mongodb://127.0.0.1:1/db?tls=true&tlsCAFile={tmp_path}/missing.pem"
    with pytest.raises(SourceUnavailable, match=r"mongodb\.uri"):
        client_factory(uri, MemberSelector())()


def test_unwrap_dbrefs_returns_dicts_in_the_same_order() -> None:
    assert unwrap_dbrefs([{"a": 1}, DBRef("c", 2)]) == [{"a": 1}, {"$ref": "c", "$id": 2}]


@pytest.mark.parametrize(
    ("error", "raised"), [(AutoReconnect("away"), SourceUnavailable), (ValueError("no such form"), SourceRefused)]
)
def test_classified_errors_raises_the_class_of_the_drivers_error(
    error: PyMongoError | ValueError, raised: type[Exception]
) -> None:
    with pytest.raises(raised), classified_errors():
        raise error
