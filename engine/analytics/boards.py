"""Keeping boards: insights beside one another, in an order.

Guarantees: one name once per project; a board shows insights of its project only, each once; a save takes effect as a
whole or not at all, and is noted in the audit log. Saves of one project wait for one another. Leaves to others: who
may.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.boards import BoardRecord, count_boards, find_board_name, insert_board, lock_board, update_board
from db.boards import delete_board as remove_board
from db.insights import hold_insights, share_insights
from engine.analytics.insights import check_name
from engine.audit import Audit
from engine.errors import UserError
from engine.node_ids import NodeKind, parse_node_id, write_node_id
from engine.transactions import run_transaction

if TYPE_CHECKING:
    import asyncpg

    from db.database import Database

MAX_BOARDS = 100
"""Of one project: all are listed at once."""
MAX_INSIGHTS = 50
"""On one board: each is a question of its own."""

Outcome = tuple[BoardRecord | None, tuple[UserError, ...]]
NOT_FOUND = "This project has no such board."
_PATH = ("input", "insightIds")
_NAME_TAKEN = UserError("Another board has this name.", "CONFLICT", ("input", "name"))


class BoardChange(msgspec.Struct, frozen=True):
    """What was given of a board; None leaves what is stored. `insight_ids` are node ids, in their order."""

    name: str | None
    insight_ids: Sequence[str] | None


async def create_board(database: Database, *, project_id: UUID, given: BoardChange, audit: Audit) -> Outcome:
    """Make a board, without insights unless some are given."""
    board_id = uuid7()
    errors = check_name(given.name or "", "A board")
    insight_ids = _read_insight_ids(given.insight_ids or (), errors)
    if errors:
        return None, tuple(errors)

    async def action(connection: asyncpg.Connection) -> Outcome:
        await hold_insights(connection, project_id=project_id)
        missing = await _missing(connection, project_id, insight_ids)
        held = await lock_board(connection, project_id=project_id, board_id=board_id)
        if held is not None:
            # A COMMIT whose answer was lost has made it.
            return held, ()
        if await count_boards(connection, project_id=project_id) >= MAX_BOARDS:
            return None, (UserError(f"A project has at most {MAX_BOARDS} boards.", "LIMIT_EXCEEDED", ("input",)),)
        name = given.name or ""
        taken = await find_board_name(connection, project_id=project_id, name=name) is not None
        if taken or missing:
            return None, (*((_NAME_TAKEN,) if taken else ()), *missing)
        made = await insert_board(
            connection, project_id=project_id, board_id=board_id, name=name, insight_ids=insight_ids, now=audit.now
        )
        await audit.note_node(
            connection, NodeKind.BOARD, board_id, project_id=project_id, before=None, after=_shown(made)
        )
        return made, ()

    return await run_transaction(database, action)


async def change_board(
    database: Database, *, project_id: UUID, board_id: UUID, given: BoardChange, audit: Audit
) -> Outcome:
    """Change a board: what is not given stays."""
    errors = [] if given.name is None else check_name(given.name, "A board")
    insight_ids = None if given.insight_ids is None else _read_insight_ids(given.insight_ids, errors)

    async def action(connection: asyncpg.Connection) -> Outcome:
        await hold_insights(connection, project_id=project_id)
        # Insights are locked before boards, as where one is deleted.
        missing = await _missing(connection, project_id, insight_ids or ())
        held = await lock_board(connection, project_id=project_id, board_id=board_id)
        if held is None:
            return None, (UserError(NOT_FOUND, "NOT_FOUND", ("input", "id")),)
        if errors:
            return None, tuple(errors)
        name = held.name if given.name is None else given.name
        taken = await find_board_name(connection, project_id=project_id, name=name) not in (None, board_id)
        if taken or missing:
            return None, (*((_NAME_TAKEN,) if taken else ()), *missing)
        changed = await update_board(
            connection,
            project_id=project_id,
            board_id=board_id,
            name=name,
            insight_ids=held.insight_ids if insight_ids is None else insight_ids,
            now=audit.now,
        )
        await audit.note_node(
            connection, NodeKind.BOARD, board_id, project_id=project_id, before=_shown(held), after=_shown(changed)
        )
        return changed, ()

    return await run_transaction(database, action)


async def delete_board(database: Database, *, project_id: UUID, board_id: UUID, audit: Audit) -> tuple[UserError, ...]:
    """Delete a board; why it was not. Its insights stay."""
    asked_before = False

    async def action(connection: asyncpg.Connection) -> tuple[UserError, ...]:
        nonlocal asked_before
        held = await lock_board(connection, project_id=project_id, board_id=board_id)
        if held is None:
            # After a COMMIT whose answer was lost it is gone because of this very call.
            return () if asked_before else (UserError(NOT_FOUND, "NOT_FOUND", ("id",)),)
        asked_before = True
        await remove_board(connection, project_id=project_id, board_id=board_id)
        await audit.note_node(
            connection, NodeKind.BOARD, board_id, project_id=project_id, before=_shown(held), after=None
        )
        return ()

    return await run_transaction(database, action)


def _shown(board: BoardRecord) -> dict[str, Any]:
    """A board as the audit log has it."""
    return {"name": board.name, "insightIds": [write_node_id(NodeKind.INSIGHT, each) for each in board.insight_ids]}


def _read_insight_ids(node_ids: Sequence[str], errors: list[UserError]) -> list[UUID]:
    """What is wrong goes to `errors`."""
    if len(node_ids) > MAX_INSIGHTS:
        errors.append(UserError(f"A board shows at most {MAX_INSIGHTS} insights.", "LIMIT_EXCEEDED", _PATH))
        return []
    found: list[UUID] = []
    for index, node_id in enumerate(node_ids):
        parsed, path = parse_node_id(node_id), (*_PATH, str(index))
        if parsed is None or parsed.kind is not NodeKind.INSIGHT:
            errors.append(UserError("This project has no such insight.", "NOT_FOUND", path))
        elif parsed.uuid in found:
            errors.append(UserError("A board shows an insight once: it is in the list before.", "INVALID", path))
        else:
            found.append(parsed.uuid)
    return found


async def _missing(
    connection: asyncpg.Connection, project_id: UUID, insight_ids: Sequence[UUID]
) -> tuple[UserError, ...]:
    held = await share_insights(connection, project_id=project_id, insight_ids=insight_ids)
    return tuple(
        UserError("This project has no such insight.", "NOT_FOUND", (*_PATH, str(index)))
        for index, insight_id in enumerate(insight_ids)
        if insight_id not in held
    )
