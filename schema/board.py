"""Boards: insights beside one another."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import strawberry

from db.boards import BoardRecord
from engine.analytics.boards import MAX_INSIGHTS
from engine.analytics.insights import MAX_NAME_CHARACTERS
from engine.errors import UserError as EngineUserError
from engine.node_ids import NodeKind, write_node_id
from resolvers import insights as resolve
from schema.errors import MutationPayload, user_errors
from schema.info import Info
from schema.inputs import keep_mapping
from schema.insight import Insight
from schema.node import Node


@strawberry.type(description="Insights beside one another. Needs VIEWER.")
class Board(Node):
    name: str = strawberry.field(description=f"1 to {MAX_NAME_CHARACTERS} characters, once per project.")
    updated_at: datetime = strawberry.field(description="When it was last saved.")
    record: strawberry.Private[BoardRecord]

    @strawberry.field(description=f"What it shows, in its order: up to {MAX_INSIGHTS}. Needs VIEWER.")
    async def insights(self, info: Info) -> list[Insight]:
        return [Insight.of(record) for record in await resolve.insights_of(info.context, board=self.record)]

    @staticmethod
    def of(record: BoardRecord) -> Board:
        return Board(
            id=strawberry.ID(write_node_id(NodeKind.BOARD, record.board_id)),
            name=record.name,
            updated_at=record.updated_at,
            record=record,
        )


@strawberry.input(description="With id, what is absent or null stays as it is. Without, a board is made.")
class SaveBoardInput:
    id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="Which to change.")
    name: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=f"1 to {MAX_NAME_CHARACTERS} characters, once per project. Needed when it is made.",
    )
    insight_ids: list[strawberry.ID] | None = strawberry.field(
        default=strawberry.UNSET,
        description=f"Node ids of insights, each once, in the order in which they are shown: at most {MAX_INSIGHTS}.",
    )


keep_mapping(SaveBoardInput)

SaveBoardArguments = dict[str, Any]
"""The input as it was coerced: what is absent is not in it."""


@strawberry.type(description="Outcome of saveBoard; whoever may save sees it. Needs EDITOR.")
class SaveBoardPayload(MutationPayload):
    board: Board | None = strawberry.field(description="As it is now; null when nothing was changed.")

    @staticmethod
    def of(record: BoardRecord | None, errors: tuple[EngineUserError, ...]) -> SaveBoardPayload:
        return SaveBoardPayload(board=None if record is None else Board.of(record), user_errors=user_errors(errors))
