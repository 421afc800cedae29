"""Root fields of providers."""

from __future__ import annotations

from typing import Annotated

import strawberry

from engine.providers.values import ProviderKind
from resolvers import providers
from schema.head_first import reading
from schema.info import Info
from schema.provider import ConfigureProviderArguments, ConfigureProviderInput, Provider, ProviderPayload
from schema.send_payloads import DeletePayload


@strawberry.type
class ProvidersQuery:
    @strawberry.field(description="The accounts that were configured, by kind: at most one of each. Needs VIEWER.")
    async def providers(self, info: Info) -> list[Provider] | None:
        ctx = await reading(info)
        return [Provider.of(shown) for shown in await providers.list_providers(ctx)]


@strawberry.type
class ProvidersMutation:
    @strawberry.mutation(
        description="Set up, or change, the project's account with a provider. What is wrong is said of every part. "
        "Needs ADMIN."
    )
    async def configure_provider(
        self,
        info: Info,
        arguments: Annotated[
            ConfigureProviderArguments,
            strawberry.argument(name="input", description="The account.", graphql_type=ConfigureProviderInput),
        ],
    ) -> ProviderPayload | None:
        shown, errors = await providers.configure(
            info.context,
            kind=ProviderKind(arguments["kind"]),
            settings=arguments.get("settings"),
            secrets=arguments.get("secrets"),
        )
        return ProviderPayload.of(shown, errors)

    @strawberry.mutation(
        description="Forget an account and its secrets; what still waits for it then fails. Needs ADMIN."
    )
    async def delete_provider(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="Node id of the provider.")],  # noqa: A002
    ) -> DeletePayload | None:
        return DeletePayload.of(*await providers.delete(info.context, node_id=id))
