"""Keeping insights: a name and one question, of whichever kind. The answer is never kept: it is found when asked for.

Guarantees: one name once per project; only a question that can be asked is kept, as its client wrote it; a save takes
effect as a whole or not at all, and is noted in the audit log. An insight that is deleted leaves all boards. What was
kept can be asked for as long as what it names is there: an audience that was deleted since is said when the insight is
asked.
Saves of one project wait for one another. Leaves to others: who may.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.audiences import share_audiences
from db.boards import drop_insight
from db.condition_terms import parse_instant
from db.insights import (
    InsightRecord,
    count_insights,
    find_insight_name,
    hold_insights,
    insert_insight,
    lock_insight,
    update_insight,
)
from db.insights import delete_insight as remove_insight
from engine.analytics.funnels import read_funnel_input
from engine.analytics.inputs import read_audience_id
from engine.analytics.retention import read_retention_input
from engine.analytics.trends import read_trend_input
from engine.audit import Audit
from engine.errors import BadUserInput, UserError
from engine.node_ids import NodeKind
from engine.transactions import run_transaction

if TYPE_CHECKING:
    import asyncpg

    from db.database import Database

MAX_INSIGHTS = 1000
"""Of one project."""
MAX_NAME_CHARACTERS = 100
"""Fits on one line of a dashboard."""
MAX_INPUT_BYTES = 256 * 1024
"""Of one question: twenty steps with long lists of values in their conditions."""

Outcome = tuple[InsightRecord | None, tuple[UserError, ...]]
NOT_FOUND = "This project has no such insight."
_NAME_TAKEN = UserError("Another insight has this name.", "CONFLICT", ("input", "name"))
_INSTANTS = ("since", "until")


class InsightKind(StrEnum):
    """What is asked: the name of the input, in capitals."""

    FUNNEL = "FUNNEL"
    RETENTION = "RETENTION"
    TREND = "TREND"


_READERS: dict[InsightKind, Callable[..., object]] = {
    InsightKind.FUNNEL: read_funnel_input,
    InsightKind.RETENTION: read_retention_input,
    InsightKind.TREND: read_trend_input,
}


class InsightChange(msgspec.Struct, frozen=True):
    """What was given of an insight; None, or a kind that is absent, leaves what is stored.

    `questions` are the inputs that were given, by kind, as mappings with the names of GraphQL: one at most makes sense.
    """

    name: str | None
    questions: dict[InsightKind, Mapping[str, Any]]


class _Question(msgspec.Struct, frozen=True):
    """A question that can be asked, as it is kept. `audience_id` is one that it names, at `audience_path`."""

    kind: InsightKind
    text: str
    audience_id: UUID | None
    audience_path: tuple[str, ...]


async def create_insight(database: Database, *, project_id: UUID, given: InsightChange, audit: Audit) -> Outcome:
    """Make an insight."""
    insight_id = uuid7()
    errors = check_name(given.name or "", "An insight")
    question = _read_question(given, errors, now=audit.now)
    if question is None and not errors:
        errors.append(UserError("Say what it asks: give funnel, retention or trend.", "INVALID", ("input",)))
    if errors or question is None:
        return None, tuple(errors)

    async def action(connection: asyncpg.Connection) -> Outcome:
        await hold_insights(connection, project_id=project_id)
        held = await lock_insight(connection, project_id=project_id, insight_id=insight_id)
        if held is not None:
            # A COMMIT whose answer was lost has made it.
            return held, ()
        if await count_insights(connection, project_id=project_id) >= MAX_INSIGHTS:
            return None, (UserError(f"A project has at most {MAX_INSIGHTS} insights.", "LIMIT_EXCEEDED", ("input",)),)
        name = given.name or ""
        if await find_insight_name(connection, project_id=project_id, name=name) is not None:
            return None, (_NAME_TAKEN,)
        if missing := await _missing_audience(connection, project_id, question):
            return None, missing
        made = await insert_insight(
            connection,
            project_id=project_id,
            insight_id=insight_id,
            name=name,
            kind=question.kind,
            question=question.text,
            now=audit.now,
        )
        await audit.note_node(
            connection, NodeKind.INSIGHT, insight_id, project_id=project_id, before=None, after=_shown(made)
        )
        return made, ()

    return await run_transaction(database, action)


async def change_insight(
    database: Database, *, project_id: UUID, insight_id: UUID, given: InsightChange, audit: Audit
) -> Outcome:
    """Change an insight: what is not given stays."""
    errors = [] if given.name is None else check_name(given.name, "An insight")
    question = _read_question(given, errors, now=audit.now)

    async def action(connection: asyncpg.Connection) -> Outcome:
        await hold_insights(connection, project_id=project_id)
        held = await lock_insight(connection, project_id=project_id, insight_id=insight_id)
        if held is None:
            return None, (UserError(NOT_FOUND, "NOT_FOUND", ("input", "id")),)
        if errors:
            return None, tuple(errors)
        name = held.name if given.name is None else given.name
        if await find_insight_name(connection, project_id=project_id, name=name) not in (None, insight_id):
            return None, (_NAME_TAKEN,)
        if question is not None and (missing := await _missing_audience(connection, project_id, question)):
            return None, missing
        changed = await update_insight(
            connection,
            project_id=project_id,
            insight_id=insight_id,
            name=name,
            kind=held.kind if question is None else question.kind,
            question=bytes(held.input).decode() if question is None else question.text,
            now=audit.now,
        )
        await audit.note_node(
            connection, NodeKind.INSIGHT, insight_id, project_id=project_id, before=_shown(held), after=_shown(changed)
        )
        return changed, ()

    return await run_transaction(database, action)


async def delete_insight(
    database: Database, *, project_id: UUID, insight_id: UUID, audit: Audit
) -> tuple[UserError, ...]:
    """Delete an insight and take it off every board; why it was not."""
    asked_before = False

    async def action(connection: asyncpg.Connection) -> tuple[UserError, ...]:
        nonlocal asked_before
        held = await lock_insight(connection, project_id=project_id, insight_id=insight_id)
        if held is None:
            # After a COMMIT whose answer was lost it is gone because of this very call.
            return () if asked_before else (UserError(NOT_FOUND, "NOT_FOUND", ("id",)),)
        asked_before = True
        await drop_insight(connection, project_id=project_id, insight_id=insight_id)
        await remove_insight(connection, project_id=project_id, insight_id=insight_id)
        await audit.note_node(
            connection, NodeKind.INSIGHT, insight_id, project_id=project_id, before=_shown(held), after=None
        )
        return ()

    return await run_transaction(database, action)


def question_of(insight: InsightRecord) -> dict[str, Any]:
    """The input that was kept, as it arrived: with the names of GraphQL, its instants read."""
    kept: dict[str, Any] = msgspec.json.decode(insight.input)
    instants = {name: parse_instant(kept[name]) for name in _INSTANTS if kept.get(name) is not None}
    return {**kept, **instants}


def _shown(insight: InsightRecord) -> dict[str, Any]:
    """An insight as the audit log has it."""
    return {"name": insight.name, "kind": insight.kind, "input": msgspec.json.decode(insight.input)}


def check_name(name: str, whose: str) -> list[UserError]:
    """What is wrong with a name; `whose` begins the sentence."""
    if name.strip() and len(name) <= MAX_NAME_CHARACTERS and "\0" not in name:
        return []
    message = f"{whose} has a name of 1 to {MAX_NAME_CHARACTERS} characters, without NUL."
    return [UserError(message, "INVALID", ("input", "name"))]


def _read_question(given: InsightChange, errors: list[UserError], *, now: datetime) -> _Question | None:
    """The question that was given, if one was; what is wrong goes to `errors`."""
    if len(given.questions) > 1:
        errors.append(UserError("An insight asks one thing: funnel, retention or trend.", "INVALID", ("input",)))
    if len(given.questions) != 1:
        return None
    [(kind, question)] = given.questions.items()
    path = ("input", kind.lower())
    try:
        _READERS[kind](question, now=now, path=path)
    except BadUserInput as error:
        errors.append(UserError(str(error), "INVALID", error.path))
        return None
    text = msgspec.json.encode(question)
    if len(text) > MAX_INPUT_BYTES:
        errors.append(UserError(f"A question has at most {MAX_INPUT_BYTES} bytes.", "LIMIT_EXCEEDED", path))
        return None
    audience_path = (*path, "audienceId")
    return _Question(kind, text.decode(), read_audience_id(question.get("audienceId"), audience_path), audience_path)


async def _missing_audience(
    connection: asyncpg.Connection, project_id: UUID, question: _Question
) -> tuple[UserError, ...]:
    wanted = question.audience_id
    if wanted is None or await share_audiences(connection, project_id=project_id, audience_ids=[wanted]):
        return ()
    return (UserError("This project has no such audience.", "NOT_FOUND", question.audience_path),)
