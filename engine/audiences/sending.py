"""What each channel makes of a page of an audience's members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from db.delivery_records import NewDelivery
from engine.dispatch.audience_sends import MemberPage, PlanPage
from engine.dispatch.values import Channel
from engine.email import accepting as email
from engine.push import member_pages as push
from engine.sms import accepting as sms
from engine.vault import Vault

if TYPE_CHECKING:
    import asyncpg


def member_pages(vault: Vault) -> Mapping[Channel, PlanPage]:
    """By the channel of the send."""

    async def mails(connection: asyncpg.Connection, page: MemberPage) -> Sequence[NewDelivery]:
        return await email.make_for_members(connection, vault, page)

    async def texts(connection: asyncpg.Connection, page: MemberPage) -> Sequence[NewDelivery]:
        return await sms.make_for_members(connection, vault, page)

    return {Channel.PUSH: push.make_for_members, Channel.EMAIL: mails, Channel.SMS: texts}
