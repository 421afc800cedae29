"""Root fields of sms."""

from __future__ import annotations

from typing import Annotated

import strawberry

from resolvers import sms
from resolvers.sms import SmsArguments
from schema.info import Info
from schema.send_payloads import SendPayload
from schema.sms import SendSmsInput


@strawberry.type
class SmsMutation:
    @strawberry.mutation(
        description="Send a text message. Numbers that answered STOP, and people who withdrew their consent, are "
        "suppressed. Needs EDITOR."
    )
    async def send_sms(
        self,
        info: Info,
        arguments: Annotated[
            SmsArguments, strawberry.argument(name="input", description="The message.", graphql_type=SendSmsInput)
        ],
    ) -> SendPayload | None:
        return SendPayload.of(*await sms.send_sms(info.context, arguments=arguments))
