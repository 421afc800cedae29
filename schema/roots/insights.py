"""Root fields of insights and boards."""

from __future__ import annotations

from typing import Annotated

import strawberry

from engine.analytics.boards import MAX_BOARDS
from resolvers import insights
from resolvers.paging import PageArguments
from schema.board import Board, SaveBoardArguments, SaveBoardInput, SaveBoardPayload
from schema.head_first import reading
from schema.info import Info
from schema.insight import InsightConnection, SaveInsightArguments, SaveInsightInput, SaveInsightPayload
from schema.paging import After, First
from schema.send_payloads import DeletePayload


@strawberry.type
class InsightsQuery:
    @strawberry.field(description="Questions that are kept, by name. Needs VIEWER.")
    async def insights(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        search: Annotated[str | None, strawberry.argument(description="Any part of the name, in any case.")] = None,
    ) -> InsightConnection | None:
        ctx = await reading(info)
        page = await insights.list_insights(ctx, arguments=PageArguments(first, after), search=search)
        return InsightConnection.of(page)

    @strawberry.field(description=f"All boards, by name: up to {MAX_BOARDS}. Needs VIEWER.")
    async def boards(self, info: Info) -> list[Board] | None:
        ctx = await reading(info)
        return [Board.of(record) for record in await insights.list_boards(ctx)]


@strawberry.type
class InsightsMutation:
    @strawberry.mutation(description="Make or change an insight. A name that is taken is a CONFLICT. Needs EDITOR.")
    async def save_insight(
        self,
        info: Info,
        given: Annotated[
            SaveInsightArguments,
            strawberry.argument(name="input", description="The insight.", graphql_type=SaveInsightInput),
        ],
    ) -> SaveInsightPayload | None:
        return SaveInsightPayload.of(*await insights.save_insight(info.context, given=given))

    @strawberry.mutation(description="Delete an insight; it leaves all boards. Needs EDITOR.")
    async def delete_insight(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="Node id of the insight.")],  # noqa: A002
    ) -> DeletePayload | None:
        return DeletePayload.of(*await insights.delete_insight(info.context, node_id=id))

    @strawberry.mutation(description="Make or change a board. A name that is taken is a CONFLICT. Needs EDITOR.")
    async def save_board(
        self,
        info: Info,
        given: Annotated[
            SaveBoardArguments,
            strawberry.argument(name="input", description="The board.", graphql_type=SaveBoardInput),
        ],
    ) -> SaveBoardPayload | None:
        return SaveBoardPayload.of(*await insights.save_board(info.context, given=given))

    @strawberry.mutation(description="Delete a board; its insights stay. Needs EDITOR.")
    async def delete_board(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="Node id of the board.")],  # noqa: A002
    ) -> DeletePayload | None:
        return DeletePayload.of(*await insights.delete_board(info.context, node_id=id))
