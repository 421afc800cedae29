"""Root fields of erasure and export."""

from __future__ import annotations

from typing import Annotated

import strawberry

from resolvers import erasure
from schema.erasure import EraseProfileInput, EraseProfilePayload
from schema.info import Info


@strawberry.type
class ErasureMutation:
    @strawberry.mutation(
        description=(
            "Erase a person for good, from every table, in one transaction: events, profile, sessions, devices, "
            "deliveries with their bodies, runs and their traces, and webhooks about them. Somebody who was erased "
            "before and has not come back is answered with the receipt of that time. Needs ADMIN."
        )
    )
    async def erase_profile(
        self, info: Info, input: Annotated[EraseProfileInput, strawberry.argument(description="Whom, and why.")]  # noqa: A002
    ) -> EraseProfilePayload | None:
        return EraseProfilePayload.of(
            *await erasure.erase_profile(info.context, user_id=input.user_id, reason=input.reason)
        )
