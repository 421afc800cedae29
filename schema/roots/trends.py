"""Root fields of trends and retention."""

from __future__ import annotations

from typing import Annotated

import strawberry

from resolvers import trends
from schema.head_first import reading
from schema.info import Info
from schema.retention import RetentionArguments, RetentionInput, RetentionReport
from schema.trend import TrendArguments, TrendInput, TrendReport


@strawberry.type
class TrendsQuery:
    @strawberry.field(
        description=(
            "How many of the people who did one thing did another in the intervals after. TIMEOUT where that takes "
            "longer than a question may. Needs VIEWER."
        )
    )
    async def retention(
        self,
        info: Info,
        given: Annotated[
            RetentionArguments,
            strawberry.argument(name="input", description="What is asked.", graphql_type=RetentionInput),
        ],
    ) -> RetentionReport | None:
        ctx = await reading(info)
        return RetentionReport.of(await trends.ask_retention(ctx, given=given))

    @strawberry.field(
        description=(
            "How much of something happened in each minute, hour, day, week or month. TIMEOUT where that takes longer "
            "than a question may. Needs VIEWER."
        )
    )
    async def trend(
        self,
        info: Info,
        given: Annotated[
            TrendArguments, strawberry.argument(name="input", description="What is asked.", graphql_type=TrendInput)
        ],
    ) -> TrendReport | None:
        ctx = await reading(info)
        return TrendReport.of(await trends.ask_trend(ctx, given=given))
