"""Sending mail."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import strawberry

from engine.dispatch.sending import MAX_RECIPIENTS
from resolvers.email import EmailArguments
from schema.descriptions import TO_AUDIENCE
from schema.inputs import build_with
from schema.scalars import JSON
from schema.template import LIQUID


@strawberry.input(
    description=(
        f"A mail. userIds and to together name 1 to {MAX_RECIPIENTS} people and addresses. It has a template, or "
        "subject and body; what is given here goes before what the template says."
    )
)
class SendEmailInput:
    idempotency_key: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="The same key is sent once, however often it is asked for. 1 to 128 characters.",
    )
    user_ids: list[str] | None = strawberry.field(
        default=strawberry.UNSET, description="People; the address is their trait email."
    )
    audience_id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description=TO_AUDIENCE)
    to: list[str] | None = strawberry.field(default=strawberry.UNSET, description="Addresses, without names.")
    template_id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="A template for the channel EMAIL."
    )
    subject: str | None = strawberry.field(default=strawberry.UNSET, description=f"Up to 998 characters. {LIQUID}")
    body_html: str | None = strawberry.field(
        default=strawberry.UNSET, description=f"Up to 256 KiB; values are escaped. {LIQUID}"
    )
    body_text: str | None = strawberry.field(
        default=strawberry.UNSET, description="Up to 256 KiB; without one it is made from the HTML."
    )
    sender: str | None = strawberry.field(
        name="from",
        default=strawberry.UNSET,
        description=(
            "An address, or name and address; its domain has to be a VERIFIED one of senderDomains, else the outcome "
            "is BYOD_REQUIRED. By default the provider's setting from."
        ),
    )
    reply_to: str | None = strawberry.field(default=strawberry.UNSET, description="An address, or name and address.")
    variables: JSON | None = strawberry.field(
        name="vars", default_factory=dict, description="A JSON object, up to 64 KiB: {{ name }} in the texts."
    )
    scheduled_for: datetime | None = strawberry.field(
        default=strawberry.UNSET, description="Not before this time, at most 366 days ahead; now when absent."
    )


def _arguments(value: dict[str, Any]) -> EmailArguments:
    return EmailArguments(
        user_ids=tuple(value.get("userIds") or ()),
        to=tuple(value.get("to") or ()),
        audience_id=value.get("audienceId"),
        template_id=value.get("templateId"),
        subject=value.get("subject"),
        body_html=value.get("bodyHtml"),
        body_text=value.get("bodyText"),
        sender=value.get("from"),
        reply_to=value.get("replyTo"),
        variables=value.get("vars"),
        scheduled_for=value.get("scheduledFor"),
        idempotency_key=value.get("idempotencyKey"),
    )


build_with(SendEmailInput, _arguments)
