"""Sending text messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import strawberry

from engine.dispatch.sending import MAX_RECIPIENTS
from resolvers.sms import SmsArguments
from schema.descriptions import TO_AUDIENCE
from schema.inputs import build_with


@strawberry.input(description=f"A text message. userIds and to together name 1 to {MAX_RECIPIENTS} people and numbers.")
class SendSmsInput:
    idempotency_key: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="The same key is sent once, however often it is asked for. 1 to 128 characters.",
    )
    user_ids: list[str] | None = strawberry.field(
        default=strawberry.UNSET, description="People; the number is their trait phone."
    )
    audience_id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description=TO_AUDIENCE)
    to: list[str] | None = strawberry.field(
        default=strawberry.UNSET, description="Numbers with + and country code, in any punctuation."
    )
    body: str = strawberry.field(
        description="Up to 1600 characters. Liquid: {{ user.* }}, {{ profile.* }}, {{ trait.* }}, {{ event.* }}."
    )
    scheduled_for: datetime | None = strawberry.field(
        default=strawberry.UNSET, description="Not before this time, at most 366 days ahead; now when absent."
    )


def _arguments(value: dict[str, Any]) -> SmsArguments:
    return SmsArguments(
        body=value["body"],
        user_ids=tuple(value.get("userIds") or ()),
        to=tuple(value.get("to") or ()),
        audience_id=value.get("audienceId"),
        scheduled_for=value.get("scheduledFor"),
        idempotency_key=value.get("idempotencyKey"),
    )


build_with(SendSmsInput, _arguments)
