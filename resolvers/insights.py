"""Insights and boards: reading, saving and deleting them, and asking what they ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from db.boards import BoardRecord
from db.boards import list_boards as read_board_list
from db.insights import InsightRecord
from db.insights import list_insights as read_insight_list
from engine.analytics import boards, insights
from engine.analytics.boards import BoardChange
from engine.analytics.funnels import FunnelReport
from engine.analytics.insights import InsightChange, InsightKind, question_of
from engine.analytics.retention import RetentionCohort
from engine.analytics.trends import TrendReport
from engine.cursors import Cursor, CursorKind
from engine.errors import UserError
from engine.identity import Role
from engine.node_ids import NodeKind, parse_node_id
from resolvers.audit import audit_of
from resolvers.context import Context
from resolvers.filters import check_text
from resolvers.funnels import ask_funnel
from resolvers.paging import Page, PageArguments, read_window
from resolvers.permissions import require
from resolvers.trends import ask_retention, ask_trend


async def list_insights(ctx: Context, *, arguments: PageArguments, search: str | None) -> Page[InsightRecord]:
    """A page of the project's insights, by name."""
    viewer = require(ctx, Role.VIEWER)
    codec, project_id = ctx.services.cursors, viewer.project_id
    window = read_window(arguments, codec, project_id=project_id, kind=CursorKind.INSIGHT_LIST)
    check_text(search, "search")
    async with ctx.reading(project_id) as connection:
        found = await read_insight_list(
            connection,
            project_id=project_id,
            after=None if window.after is None else str(window.after.key[0]),
            search=search,
            limit=window.limit + 1,
        )
    records = tuple(found[: window.limit])
    cursors = tuple(codec.encode(Cursor(CursorKind.INSIGHT_LIST, project_id, 0, (each.name,))) for each in records)
    return window.page(records, cursors, has_more=len(found) > window.limit)


async def list_boards(ctx: Context) -> Sequence[BoardRecord]:
    """All boards of the project, by name."""
    viewer = require(ctx, Role.VIEWER)
    async with ctx.reading(viewer.project_id) as connection:
        return await read_board_list(connection, project_id=viewer.project_id)


async def insights_of(ctx: Context, *, board: BoardRecord) -> list[InsightRecord]:
    """What a board shows, in its order."""
    require(ctx, Role.VIEWER)
    found = await ctx.loaders.insights.load_many((board.project_id, each) for each in board.insight_ids)
    return [insight for insight in found if insight is not None]


async def funnel_of(ctx: Context, *, insight: InsightRecord) -> FunnelReport | None:
    """What a funnel comes to now; None of an insight of another kind."""
    require(ctx, Role.VIEWER)
    return await ask_funnel(ctx, given=question_of(insight)) if insight.kind == InsightKind.FUNNEL else None


async def retention_of(ctx: Context, *, insight: InsightRecord) -> Sequence[RetentionCohort] | None:
    """What a retention comes to now; None of an insight of another kind."""
    require(ctx, Role.VIEWER)
    return await ask_retention(ctx, given=question_of(insight)) if insight.kind == InsightKind.RETENTION else None


async def trend_of(ctx: Context, *, insight: InsightRecord) -> TrendReport | None:
    """What a trend comes to now; None of an insight of another kind."""
    require(ctx, Role.VIEWER)
    return await ask_trend(ctx, given=question_of(insight)) if insight.kind == InsightKind.TREND else None


async def save_insight(ctx: Context, *, given: Mapping[str, Any]) -> insights.Outcome:
    """Make an insight, or change the one with the id. `given` has the names of SaveInsightInput."""
    viewer = require(ctx, Role.EDITOR)
    database, audit = ctx.services.database, audit_of(ctx, viewer)
    questions = {kind: given[kind.lower()] for kind in InsightKind if given.get(kind.lower()) is not None}
    change = InsightChange(given.get("name"), questions)
    if given.get("id") is None:
        outcome = await insights.create_insight(database, project_id=viewer.project_id, given=change, audit=audit)
    else:
        insight_id = _id_of(given["id"], NodeKind.INSIGHT)
        if insight_id is None:
            return None, (UserError(insights.NOT_FOUND, "NOT_FOUND", ("input", "id")),)
        outcome = await insights.change_insight(
            database, project_id=viewer.project_id, insight_id=insight_id, given=change, audit=audit
        )
    ctx.forget_reads()
    return outcome


async def delete_insight(ctx: Context, *, node_id: str) -> tuple[str | None, tuple[UserError, ...]]:
    """Delete an insight; gives its node id. It leaves all boards."""
    viewer = require(ctx, Role.EDITOR)
    insight_id = _id_of(node_id, NodeKind.INSIGHT)
    if insight_id is None:
        return None, (UserError(insights.NOT_FOUND, "NOT_FOUND", ("id",)),)
    errors = await insights.delete_insight(
        ctx.services.database, project_id=viewer.project_id, insight_id=insight_id, audit=audit_of(ctx, viewer)
    )
    ctx.forget_reads()
    return (None, errors) if errors else (node_id, ())


async def save_board(ctx: Context, *, given: Mapping[str, Any]) -> boards.Outcome:
    """Make a board, or change the one with the id. `given` has the names of SaveBoardInput."""
    viewer = require(ctx, Role.EDITOR)
    database, audit = ctx.services.database, audit_of(ctx, viewer)
    change = BoardChange(given.get("name"), given.get("insightIds"))
    if given.get("id") is None:
        outcome = await boards.create_board(database, project_id=viewer.project_id, given=change, audit=audit)
    else:
        board_id = _id_of(given["id"], NodeKind.BOARD)
        if board_id is None:
            return None, (UserError(boards.NOT_FOUND, "NOT_FOUND", ("input", "id")),)
        outcome = await boards.change_board(
            database, project_id=viewer.project_id, board_id=board_id, given=change, audit=audit
        )
    ctx.forget_reads()
    return outcome


async def delete_board(ctx: Context, *, node_id: str) -> tuple[str | None, tuple[UserError, ...]]:
    """Delete a board; gives its node id. Its insights stay."""
    viewer = require(ctx, Role.EDITOR)
    board_id = _id_of(node_id, NodeKind.BOARD)
    if board_id is None:
        return None, (UserError(boards.NOT_FOUND, "NOT_FOUND", ("id",)),)
    errors = await boards.delete_board(
        ctx.services.database, project_id=viewer.project_id, board_id=board_id, audit=audit_of(ctx, viewer)
    )
    ctx.forget_reads()
    return (None, errors) if errors else (node_id, ())


def _id_of(node_id: str, kind: NodeKind) -> UUID | None:
    """None for anything but a node id of the kind."""
    parsed = parse_node_id(node_id)
    return parsed.uuid if parsed is not None and parsed.kind is kind else None
