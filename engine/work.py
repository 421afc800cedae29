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
    """The log has grown: deliveries to webhook endpoints follow from it. Rings for all who follow the log."""
    REPLAYS = "replays"
    """A bulk replay is not finished: go on with it."""
    AUDIENCE_SENDS = "audience_sends"
    """A send to an audience is not finished: make its next page."""
    AUDIENCES = "audiences"
    """The log has grown: people come to belong to audiences, or cease to."""
    AUDIENCE_CHECKS = "audience_checks"
    """Time has passed, or an audience was saved: people are to be looked at again."""
    TRIGGERS = "triggers"
    """The log has grown: runs of workflows follow from it."""
    RUN_REPORTS = "run_reports"
    """Deliveries of runs have come to something: their runs go on."""
    RUNS = "runs"
    """Runs of workflows are due, or a workflow's runs are to be released or cancelled."""
    SCHEDULES = "schedules"
    """Workflows are due for the members of their audiences."""


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
