"""Root fields of funnels."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import strawberry

from engine.analytics import funnels as engine
from resolvers import funnels
from schema.funnel import FunnelArguments, FunnelInput, FunnelReport
from schema.head_first import reading
from schema.info import Info

FunnelArgument = Annotated[
    FunnelArguments, strawberry.argument(name="input", description="What is asked.", graphql_type=FunnelInput)
]


@strawberry.type
class FunnelsQuery:
    @strawberry.field(
        description=(
            "How far people come through a sequence of steps. TIMEOUT where that takes longer than a question may. "
            "Needs VIEWER."
        )
    )
    async def funnel(self, info: Info, given: FunnelArgument) -> FunnelReport | None:
        ctx = await reading(info)
        return FunnelReport.of(await funnels.ask_funnel(ctx, given=given))


@strawberry.type
class FunnelsSubscription:
    @strawberry.subscription(
        description=(
            "The report at once, and again whenever it has changed: what funnel answers at that moment. Without since, "
            "the period moves on with time; that alone is looked at once a minute. Has no cursor: who comes back gets "
            "the report as it is then. Needs VIEWER."
        )
    )
    async def funnel_updates(
        self,
        info: Info,
        given: FunnelArgument,
        interval_ms: Annotated[
            int | None,
            strawberry.argument(
                description=(
                    "Milliseconds between two reports, at least: "
                    f"{funnels.MIN_INTERVAL_MS} to {funnels.MAX_INTERVAL_MS}."
                )
            ),
        ] = funnels.DEFAULT_INTERVAL_MS,
    ) -> AsyncGenerator[FunnelReport | None, None]:
        return _converted(funnels.follow_funnel(info.context, given=given, interval_ms=interval_ms))


async def _converted(reports: AsyncGenerator[engine.FunnelReport, None]) -> AsyncGenerator[FunnelReport | None, None]:
    async with aclosing(reports):
        async for report in reports:
            yield FunnelReport.of(report)
