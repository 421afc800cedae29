"""What readers ask for, as frozen values: the condition language and event filters."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec


class ConditionOperator(StrEnum):
    """How a test compares what a path reads with its value. docs/conditions.md has the meaning of each."""

    EQ = "EQ"
    NE = "NE"
    GT = "GT"
    GTE = "GTE"
    LT = "LT"
    LTE = "LTE"
    IN = "IN"
    NOT_IN = "NOT_IN"
    CONTAINS = "CONTAINS"
    STARTS_WITH = "STARTS_WITH"
    ENDS_WITH = "ENDS_WITH"
    EXISTS = "EXISTS"
    NOT_EXISTS = "NOT_EXISTS"
    IS_ANNIVERSARY = "IS_ANNIVERSARY"


class EventCount(msgspec.Struct, frozen=True):
    """How often an event happened to a person, or the sum of one of its properties (`sum` is a path).

    `event_type` is what the client wrote; `event_types` what it stands for, aliases included, wildcards kept.
    """

    event_type: str
    event_types: tuple[str, ...]
    where: tuple[Condition, ...] = ()
    within_seconds: int | None = None
    sum: str | None = None


class Condition(msgspec.Struct, frozen=True):
    """One test: exactly one of `path`, `events`, `any`, `all`, `negate` is set. `op` is a ConditionOperator's name.

    `value` is any JSON value, held immutable by convention.
    """

    path: str | None = None
    events: EventCount | None = None
    op: str | None = None
    value: Any = None
    any: tuple[Condition, ...] | None = None
    all: tuple[Condition, ...] | None = None
    negate: Condition | None = None


class EventFilter(msgspec.Struct, frozen=True):
    """Which events. Names are canonical (aliases already replaced); `event_types` may hold wildcards (`push.*`)."""

    event_types: tuple[str, ...] | None = None
    modules: tuple[str, ...] | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    keys: tuple[str, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None
    where: tuple[Condition, ...] = ()


EVERYTHING = EventFilter()
