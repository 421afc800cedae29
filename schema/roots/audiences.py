"""Root fields of audiences."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, cast

import strawberry

from resolvers import audiences, streams
from resolvers.paging import PageArguments
from schema.audience import (
    AudienceConnection,
    SaveAudienceArguments,
    SaveAudienceInput,
    SaveAudiencePayload,
)
from schema.audience_change import AudienceChangeEdge, change_edge
from schema.head_first import reading
from schema.info import Info
from schema.paging import After, First
from schema.scalars import Cursor
from schema.send_payloads import DeletePayload


@strawberry.type
class AudiencesQuery:
    @strawberry.field(description="Groups of people, by name. Needs VIEWER.")
    async def audiences(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        search: Annotated[str | None, strawberry.argument(description="Any part of the name, in any case.")] = None,
    ) -> AudienceConnection | None:
        ctx = await reading(info)
        page = await audiences.list_audiences(ctx, arguments=PageArguments(first, after), search=search)
        return AudienceConnection.of(page)


@strawberry.type
class AudiencesSubscription:
    @strawberry.subscription(
        description=(
            "Who comes to belong to an audience and who ceases to, as it is noticed: within about a second of what "
            "happened, or of the moment at which time alone changed it. One that is not there: NOT_FOUND. "
            "Needs VIEWER."
        )
    )
    async def audience_changes(
        self,
        info: Info,
        audience_id: Annotated[strawberry.ID, strawberry.argument(description="Node id of the audience.")],
        after: Annotated[
            Cursor | None,
            strawberry.argument(description="Start just after this: a cursor of this stream, or Project.head."),
        ] = None,
    ) -> AsyncGenerator[AudienceChangeEdge | None, None]:
        source = await streams.follow_audience(info.context, audience_id=audience_id, after=after, convert=change_edge)
        return cast("AsyncGenerator[AudienceChangeEdge | None, None]", source)


@strawberry.type
class AudiencesMutation:
    @strawberry.mutation(description="Make or change an audience. A name that is taken is a CONFLICT. Needs EDITOR.")
    async def save_audience(
        self,
        info: Info,
        given: Annotated[
            SaveAudienceArguments,
            strawberry.argument(name="input", description="The audience.", graphql_type=SaveAudienceInput),
        ],
    ) -> SaveAudiencePayload | None:
        return SaveAudiencePayload.of(*await audiences.save_audience(info.context, given=given))

    @strawberry.mutation(
        description=(
            "Delete an audience; refused while a workflow that is on starts for its members, or an insight asks about "
            "them. What was to be sent to it later, or was not yet made of a send, is not sent. Needs EDITOR."
        )
    )
    async def delete_audience(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="Node id of the audience.")],  # noqa: A002
    ) -> DeletePayload | None:
        return DeletePayload.of(*await audiences.delete(info.context, node_id=id))
