"""Telling workers that there is something to do now: a hint through Redis, without any truth of its own.

What is lost is found by the sweeper (engine/workers/sweeper.py) within about a second.
"""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

import msgspec

CHANNEL = "sendora:work"
"""The Redis channel that every worker subscribes to."""


class WorkKind(StrEnum):
    """What there is to do for a project."""

    DELIVERIES = "deliveries"
    """Deliveries are due: drain them."""
    EVENTS = "events"
    """The log has grown: followers read on."""
    REPLAYS = "replays"
    """A bulk replay is not finished: go on with it."""


class Work(msgspec.Struct, frozen=True, array_like=True):
    """Something to do for one project."""

    kind: WorkKind
    project_id: UUID


_decoder = msgspec.json.Decoder(Work)


def encode_work(work: Work) -> bytes:
    """JSON."""
    return msgspec.json.encode(work)


def decode_work(message: bytes) -> Work:
    """Raises `msgspec.DecodeError` for anything else."""
    return _decoder.decode(message)
