"""Live Activities: which row a change is about, and what becomes of it. Pure.

An app gives two kinds of tokens: one that starts activities of a type on a device, and one for each activity that runs.
A START is sent to the first and names the activity; the app then registers the activity's own token under that name,
and UPDATE and END are sent to it.
"""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from db.live_activities import ActivityKey
from engine.dispatch.values import LiveActivity


class ActivityAction(StrEnum):
    """What is done to an activity."""

    START = "START"
    UPDATE = "UPDATE"
    END = "END"


class ActivityState(StrEnum):
    """Where an activity stands on a device."""

    STARTABLE = "STARTABLE"
    STARTING = "STARTING"
    ACTIVE = "ACTIVE"
    ENDED = "ENDED"
    INVALIDATED = "INVALIDATED"


REACHABLE_STATES = frozenset({ActivityState.STARTABLE, ActivityState.STARTING, ActivityState.ACTIVE})
"""Something can be sent, now or once the app has given the activity's token."""

SENDABLE_STATES = frozenset({ActivityState.STARTABLE, ActivityState.ACTIVE})
"""There is a token that something can be sent to."""


def activity_key(push_token_id: UUID, change: LiveActivity) -> ActivityKey:
    """The row that a change is sent to: to start one, what starts those of its type."""
    is_start = change.action == ActivityAction.START
    return ActivityKey(push_token_id, change.attributes_type, None if is_start else change.activity_id)


def started_key(push_token_id: UUID, change: LiveActivity) -> ActivityKey:
    """The row of the activity itself."""
    return ActivityKey(push_token_id, change.attributes_type, change.activity_id)
