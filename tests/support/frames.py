"""Decode the messages of consecutive WebSocket frames, as a client does."""

from __future__ import annotations

import json
from typing import Any

from wsproto.frame_protocol import FrameProtocol, Opcode


def messages(frames: bytes) -> list[Any]:
    """Return the messages. Each frame is a complete text message of JSON."""
    reader = FrameProtocol(client=True, extensions=[])
    reader.receive_bytes(frames)
    found: list[Any] = []
    for frame in reader.received_frames():
        assert frame.opcode is Opcode.TEXT
        assert frame.message_finished
        found.append(json.loads(str(frame.payload)))
    return found


def data(frames: bytes) -> list[Any]:
    """Return the changes of data messages; other messages are not allowed."""
    found = messages(frames)
    assert all(len(message) == 2 and message[0] == "data" for message in found)
    return [message[1] for message in found]
