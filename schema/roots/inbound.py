"""Root fields of inbound."""

from __future__ import annotations

from typing import Annotated

import strawberry

from resolvers import inbound
from schema.head_first import reading
from schema.inbound_endpoint import (
    InboundEndpoint,
    InboundEndpointPayload,
    SaveInboundArguments,
    SaveInboundEndpointInput,
)
from schema.info import Info
from schema.send_payloads import DeletePayload


@strawberry.type
class InboundQuery:
    @strawberry.field(description="Where other services send to, oldest first: at most 100. Needs VIEWER.")
    async def inbound_endpoints(self, info: Info) -> list[InboundEndpoint] | None:
        ctx = await reading(info)
        return [InboundEndpoint.of(shown) for shown in await inbound.list_endpoints(ctx)]


@strawberry.type
class InboundMutation:
    @strawberry.mutation(description="Make or change an inbound endpoint. Needs ADMIN.")
    async def save_inbound_endpoint(
        self,
        info: Info,
        arguments: Annotated[
            SaveInboundArguments,
            strawberry.argument(name="input", description="The endpoint.", graphql_type=SaveInboundEndpointInput),
        ],
    ) -> InboundEndpointPayload | None:
        shown, errors = await inbound.save(info.context, node_id=arguments.node_id, draft=arguments.draft)
        return InboundEndpointPayload.of(shown, errors)

    @strawberry.mutation(description="Delete an inbound endpoint: what is sent to it is refused. Needs ADMIN.")
    async def delete_inbound_endpoint(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="Node id of the endpoint.")],  # noqa: A002
    ) -> DeletePayload | None:
        return DeletePayload.of(*await inbound.delete(info.context, node_id=id))
