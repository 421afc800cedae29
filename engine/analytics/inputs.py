"""What every question has in its input: which events, broken down by what, of which audience. Checked and frozen.

Raises `BadUserInput` with the path of what can never work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from db.analytics_terms import Step
from db.audiences import read_audiences
from db.condition_terms import FieldKind, Path, PathError, parse_path
from db.filters import Condition
from engine.audiences.conditions import conditions_of
from engine.condition_input import parse_conditions
from engine.errors import BadUserInput
from engine.events import MAX_TYPE_BYTES
from engine.node_ids import NodeKind, parse_node_id
from engine.taxonomy import expand_names

if TYPE_CHECKING:
    import asyncpg

STEP_ROOTS = frozenset({"event", "profile", "events"})
"""What conditions of a step may test: the event, its person, and counts of that person's events."""
MAX_STEP_NAME_CHARACTERS = 200
MAX_GROUPS = 100
"""Groups that are told apart; what is beyond them is one group, *other*."""


def read_step(given: Mapping[str, Any], path: tuple[str, ...]) -> Step:
    """A FunnelStepInput, given with the names of GraphQL. A step without a name is called by its type."""
    event_type = _text(given["eventType"], (*path, "eventType"), most=MAX_TYPE_BYTES)
    name = given.get("name")
    return Step(
        name=event_type if name is None else _text(name, (*path, "name"), most=MAX_STEP_NAME_CHARACTERS),
        event_type=event_type,
        event_types=expand_names((event_type,)),
        where=parse_conditions(given.get("where") or [], roots=STEP_ROOTS, path=(*path, "where")),
        optional=bool(given.get("optional")),
    )


def read_path(text: str | None, path: tuple[str, ...], *, roots: frozenset[str]) -> Path | None:
    """A path to JSON of an event or to a trait, e.g. event.properties.plan. None for None."""
    if text is None:
        return None
    try:
        parsed = parse_path(text)
    except PathError as error:
        raise refused(path, str(error)) from None
    if parsed.root not in roots or parsed.kind is not FieldKind.JSON or not parsed.keys:
        wanted = " or ".join(_EXAMPLES[root] for root in sorted(roots))
        raise refused(path, f"must lead to a value as {wanted} does")
    return parsed


def read_group_limit(limit: int | None, path: tuple[str, ...], *, default: int = 10) -> int:
    """How many groups are told apart."""
    wanted = default if limit is None else limit
    if not 1 <= wanted <= MAX_GROUPS:
        raise refused(path, f"must be 1 to {MAX_GROUPS}")
    return wanted


def read_audience_id(node_id: str | None, path: tuple[str, ...]) -> UUID | None:
    """The id of an audience; None for None."""
    if node_id is None:
        return None
    parsed = parse_node_id(node_id)
    if parsed is None or parsed.kind is not NodeKind.AUDIENCE:
        raise refused(path, "must be the id of an audience")
    return parsed.uuid


async def find_audience(
    connection: asyncpg.Connection, *, project_id: UUID, audience_id: UUID | None, path: tuple[str, ...]
) -> tuple[Condition, ...] | None:
    """What an audience asks of its members; None where none is asked for."""
    if audience_id is None:
        return None
    found = await read_audiences(connection, project_id=project_id, audience_ids=[audience_id])
    if not found:
        raise refused(path, "names an audience that this project does not have")
    return conditions_of(found[0])


def refused(path: tuple[str, ...], problem: str) -> BadUserInput:
    """What is wrong with a part of the input."""
    return BadUserInput(f"{'.'.join(path)} {problem}.", path=path)


_EXAMPLES = {"event": "event.properties.plan", "profile": "profile.traits.plan"}


def _text(text: str, path: tuple[str, ...], *, most: int) -> str:
    if not 1 <= len(text) <= most or "\0" in text:
        raise refused(path, f"must have 1 to {most} characters, none of them NUL")
    return text
