"""Root fields of funnels."""

from __future__ import annotations

from typing import Annotated

import strawberry

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
