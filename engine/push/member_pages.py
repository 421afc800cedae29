"""Pushes to a page of an audience's members: as `engine.push.accepting` makes them for people who were named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from db.delivery_records import NewDelivery
from db.push_tokens import MAX_ACTIVE_TOKENS_OF_USER
from engine.dispatch.audience_sends import MemberPage
from engine.dispatch.values import PushContent
from engine.push.accepting import PushRequest, plan_for_people

if TYPE_CHECKING:
    import asyncpg

DEVICES_PER_PERSON = MAX_ACTIVE_TOKENS_OF_USER
"""Each of which gets a delivery of its own."""

_content = msgspec.json.Decoder(PushContent)


async def make_for_members(connection: asyncpg.Connection, page: MemberPage) -> Sequence[NewDelivery]:
    """Due now; what quiet hours put off is put off for each."""
    request = PushRequest(
        project_id=page.project_id, batch_id=page.batch_id, content=_content.decode(page.content), now=page.now
    )
    return await plan_for_people(connection, request, user_ids=page.user_ids)
