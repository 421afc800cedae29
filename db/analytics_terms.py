"""What analytics ask for, as frozen values, and the SQL terms that all of their statements are made of.

A person is an identity, not an id: whoever an event's user is now, else the user that its anonymous id was linked to,
else the anonymous id itself. A statement reads `events AS e` with `LINKS` behind it and calls a person `PERSON`. Its
first parameter is the project. Columns and names are constants of ours; whatever a caller supplies is a parameter.
"""

# ruff: noqa: S608
# The texts are made of constants and $n only.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from db.condition_terms import Path, parse_path
from db.conditions import condition_sql
from db.filter_terms import bind, like_any
from db.filters import Condition

MAX_GROUP_CHARACTERS = 200
"""Of a value that results are broken down by: longer ones are cut, and are one group where they begin alike."""

LINKS = """LEFT JOIN identity_links AS link ON link.project_id = $1
            AND link.kind = CASE WHEN e.user_id IS NULL THEN 'ANONYMOUS_ID' ELSE 'USER_ID' END
            AND link.alias = COALESCE(e.user_id, e.anonymous_id)"""
"""Whom an event's id stands for by now: one hop, since links always lead to the end."""

USER = "COALESCE(link.user_id, e.user_id)"
"""The user id of an event's person; NULL of somebody who is known by an anonymous id only."""

PERSON = f"COALESCE('u' || {USER}, 'a' || e.anonymous_id)"
"""Who did it: a user never equals an anonymous id that is spelt alike. NULL of nobody's event."""

SEEN = f"""CROSS JOIN LATERAL (
            SELECT e.project_id, {USER} AS user_id, e.event_type, e.module, e.key, e.seq, e.anonymous_id, e.timestamp,
                e.received_at, e.properties, e.context
        ) AS seen"""
"""The event with its person's user id instead of its own: what tests of people look at."""


class Period(msgspec.Struct, frozen=True):
    """From `since` on, up to and without `until`. Never empty."""

    since: datetime
    until: datetime

    def before(self) -> Period:
        """The period of the same length that ends where this one begins."""
        return Period(self.since - (self.until - self.since), self.since)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Which events count: of one of the types (aliases included, wildcards kept), meeting all conditions.

    `event_type` is what the client wrote, `name` what the step is called.
    """

    name: str
    event_type: str
    event_types: tuple[str, ...]
    where: tuple[Condition, ...] = ()
    optional: bool = False


def types_sql(steps: Iterable[Step], parameters: list[Any]) -> str:
    """Is an event `e` of a type that one of the steps asks for?"""
    names = tuple(dict.fromkeys(name for step in steps for name in step.event_types))
    return "true" if "*" in names else like_any("e.event_type", names, parameters)


def step_sql(step: Step, parameters: list[Any], *, now: datetime) -> str:
    """Is an event `e` one that the step counts? With conditions on people the statement needs `SEEN` (`joins_of`)."""
    typed = types_sql([step], parameters)
    if not step.where:
        return typed
    alias = "seen" if reads_people(step.where) else "e"
    return f"({typed} AND {condition_sql(step.where, parameters, table='events', alias=alias, now=now, project='$1')})"


def joins_of(steps: Iterable[Step]) -> str:
    """What a statement joins to `events AS e` so that persons, and tests of the steps, can be written."""
    return f"{LINKS} {SEEN}" if any(reads_people(step.where) for step in steps) else LINKS


def reads_people(conditions: Sequence[Condition]) -> bool:
    """Whether conditions look at people, rather than at the event alone."""
    return any(_reads_people(condition) for condition in conditions)


def _reads_people(condition: Condition) -> bool:
    inner = (*(condition.any or ()), *(condition.all or ()), *((condition.negate,) if condition.negate else ()))
    if condition.events is not None or any(_reads_people(each) for each in inner):
        return True
    return condition.path is not None and parse_path(condition.path).root == "profile"


def member_sql(audience: Sequence[Condition] | None, parameters: list[Any], *, now: datetime) -> str:
    """Does the person of an event `e` belong to an audience, as things stand? True without an audience."""
    if audience is None:
        return "true"
    met = condition_sql(audience, parameters, table="profiles", alias="p", now=now, project="$1")
    return f"{USER} IN (SELECT p.user_id FROM profiles AS p WHERE p.project_id = $1 AND {met})"


def value_sql(path: Path, parameters: list[Any], *, alias: str = "e") -> str:
    """The JSON that a path leads to; NULL for nothing. Of an event `alias`, or of the profile `owner`."""
    column = f"{alias if path.root == 'event' else 'owner'}.{path.field}"
    inner = f"{column} #> {bind(list(path.keys), parameters)}::text[]" if path.keys else column
    return f"NULLIF({inner}, 'null'::jsonb)"


def group_sql(path: Path, parameters: list[Any]) -> str:
    """The text that an event `e` is grouped by: strings as they are, anything else as JSON. See `owner_join`."""
    return f"left({value_sql(path, parameters)} #>> '{{}}', {MAX_GROUP_CHARACTERS})"


def owner_join(path: Path | None) -> str:
    """The profile of an event's person, where a path leads into it."""
    if path is None or path.root != "profile":
        return ""
    return f"LEFT JOIN profiles AS owner ON owner.project_id = $1 AND owner.user_id = {USER}"
