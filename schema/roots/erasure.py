"""Root fields of erasure and export."""

from __future__ import annotations

from typing import Annotated

import strawberry

from engine.erasure.exporting import MAX_PAGE, MAX_PAGE_BYTES
from resolvers import erasure
from schema.erasure import EraseProfileInput, EraseProfilePayload, ProfileExport
from schema.head_first import reading
from schema.info import Info
from schema.scalars import Cursor


@strawberry.type
class ErasureQuery:
    @strawberry.field(
        description=(
            "Everything that is kept of a person, as JSON lines, page by page. "
            "Needs ADMIN, or the person's own session."
        )
    )
    async def export_profile(
        self,
        info: Info,
        user_id: Annotated[str, strawberry.argument(description="The host app's id of the person.")],
        first: Annotated[
            int | None,
            strawberry.argument(
                description=(
                    f"Records in a page, 1 to {MAX_PAGE}; by default {erasure.DEFAULT_PAGE}. A page ends at "
                    f"{MAX_PAGE_BYTES // 1024 // 1024} MiB."
                )
            ),
        ] = None,
        after: Annotated[Cursor | None, strawberry.argument(description="endCursor of the page before.")] = None,
    ) -> ProfileExport | None:
        ctx = await reading(info)
        return ProfileExport.of(await erasure.export_profile(ctx, user_id=user_id, first=first, after=after))


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
        self,
        info: Info,
        input: Annotated[EraseProfileInput, strawberry.argument(description="Whom, and why.")],  # noqa: A002
    ) -> EraseProfilePayload | None:
        return EraseProfilePayload.of(
            *await erasure.erase_profile(info.context, user_id=input.user_id, reason=input.reason)
        )
