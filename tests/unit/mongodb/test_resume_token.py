"""Resume tokens: their cluster time, and their text in the store."""

from __future__ import annotations

import pytest
from bson import Timestamp

from zmsd import position
from zmsd.mongodb import resume_token


def test_position_of_a_real_token() -> None:
    at = resume_token.position_of({"_data": "826B03BFB6000000142B0229296E04"})
    assert position.to_timestamp(at) == Timestamp(1795407798, 20)


@pytest.mark.parametrize("token", [{"_data": "82AB"}, {"_data": "82AB", "_typeBits": b"\x00\x82"}])
def test_token_is_read_back_from_its_text(token: resume_token.Token) -> None:
    assert resume_token.from_text(resume_token.to_text(token)) == token


def test_text_without_type_bits_is_the_data() -> None:
    assert resume_token.to_text({"_data": "82AB"}) == "82AB"


def test_token_of_a_position_has_its_cluster_time() -> None:
    at = position.of_timestamp(Timestamp(1795407798, 20))
    assert resume_token.position_of(resume_token.at(at)) == at
    assert resume_token.time_text(resume_token.at(at)) == "6B03BFB600000014"
