"""Root fields of email."""

from __future__ import annotations

from typing import Annotated

import strawberry

from engine.dispatch.values import Channel
from resolvers import email, sender_domains, templates
from resolvers.email import EmailArguments
from resolvers.paging import PageArguments
from schema.email import SendEmailInput
from schema.head_first import reading
from schema.info import Info
from schema.paging import After, First
from schema.send_payloads import DeletePayload, SendPayload
from schema.sender_domain import SenderDomain, SenderDomainPayload
from schema.template import (
    SaveTemplateArguments,
    SaveTemplateInput,
    TemplateConnection,
    TemplatePayload,
    given_texts,
)


@strawberry.type
class EmailQuery:
    @strawberry.field(description="Texts to send, by name. Needs VIEWER.")
    async def templates(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        channel: Annotated[Channel | None, strawberry.argument(description="Only for this channel.")] = None,
    ) -> TemplateConnection | None:
        ctx = await reading(info)
        page = await templates.list_templates(ctx, arguments=PageArguments(first, after), channel=channel)
        return TemplateConnection.of(page)

    @strawberry.field(description="Domains to send email from, by name; at most 50. Needs VIEWER.")
    async def sender_domains(self, info: Info) -> list[SenderDomain] | None:
        ctx = await reading(info)
        return [SenderDomain.of(record) for record in await sender_domains.list_sender_domains(ctx)]


@strawberry.type
class EmailMutation:
    @strawberry.mutation(
        description=(
            "Send an email. People who withdrew their consent, and addresses that unsubscribed or bounced, are "
            "suppressed. Mail leaves only from a verified domain of the project's own. Needs EDITOR."
        )
    )
    async def send_email(
        self,
        info: Info,
        arguments: Annotated[
            EmailArguments, strawberry.argument(name="input", description="The mail.", graphql_type=SendEmailInput)
        ],
    ) -> SendPayload | None:
        return SendPayload.of(*await email.send_email(info.context, arguments=arguments))

    @strawberry.mutation(description="Make or change a template. A name that is taken is a CONFLICT. Needs EDITOR.")
    async def save_template(
        self,
        info: Info,
        given: Annotated[
            SaveTemplateArguments,
            strawberry.argument(name="input", description="The template.", graphql_type=SaveTemplateInput),
        ],
    ) -> TemplatePayload | None:
        outcome = await templates.save_template(info.context, node_id=given.get("id"), given=given_texts(given))
        return TemplatePayload.of(*outcome)

    @strawberry.mutation(
        description="Forget a template; what was to be sent with it and was not yet, fails. Needs EDITOR."
    )
    async def delete_template(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="Node id of the template.")],  # noqa: A002
    ) -> DeletePayload | None:
        return DeletePayload.of(*await templates.delete(info.context, node_id=id))

    @strawberry.mutation(
        description="Make a domain to send from, with a DKIM key of its own. Publish its dnsRecords. Needs EDITOR."
    )
    async def add_sender_domain(
        self,
        info: Info,
        domain: Annotated[str, strawberry.argument(description="Like example.com, in any script.")],
    ) -> SenderDomainPayload | None:
        return SenderDomainPayload.of(*await sender_domains.add_sender_domain(info.context, domain=domain))

    @strawberry.mutation(
        description="Look for a domain's records in DNS, and keep what is there. As often as you like. Needs EDITOR."
    )
    async def verify_sender_domain(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="Node id of the domain.")],  # noqa: A002
    ) -> SenderDomainPayload | None:
        return SenderDomainPayload.of(*await sender_domains.verify_sender_domain(info.context, node_id=id))
