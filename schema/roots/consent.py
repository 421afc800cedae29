"""Root fields of consent."""

from __future__ import annotations

import strawberry

from resolvers import consent
from resolvers.paging import PageArguments
from schema.consent import (
    ConsentChangeConnection,
    ConsentLogFilterArgument,
    SetConsentArgument,
    SetConsentPayload,
)
from schema.head_first import reading
from schema.info import Info
from schema.paging import After, Before, First, Last


@strawberry.type
class ConsentQuery:
    @strawberry.field(description="Every change of what people allow, newest first. Needs VIEWER.")
    async def consent_log(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        change_filter: ConsentLogFilterArgument = None,
    ) -> ConsentChangeConnection | None:
        ctx = await reading(info)
        page = await consent.list_consent_log(
            ctx, arguments=PageArguments(first, after, last, before), change_filter=change_filter
        )
        return ConsentChangeConnection.of(page)


@strawberry.type
class ConsentMutation:
    @strawberry.mutation(
        description=(
            "Record what a person allows. It holds for whatever is dispatched, stored or started from then on, and "
            "stays in the log of consent. Saying the same again changes nothing. Needs INGEST."
        )
    )
    async def set_consent(self, info: Info, arguments: SetConsentArgument) -> SetConsentPayload | None:
        return SetConsentPayload.of(await consent.set_person_consent(info.context, arguments=arguments))
