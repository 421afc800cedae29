"""Push, as the dispatcher uses it.

Guarantees: a push is prepared only for a device that still belongs to whom it was made for, and only as the policy
says at that moment; both stay true until the commit of SENDING, because persons, consents and tokens are locked. Caps
are reserved in the same transaction, once per person, message and batch. Locks, in this order: profiles, consents, push
tokens, Live Activities, providers.
Leaves to others: the deliveries themselves, retries, and what push services say (`engine.channels`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol, TypeVar
from uuid import UUID

import msgspec

from db.delivery_records import DeliveryRecord
from db.live_activities import ActivityKey, LiveActivityRecord, share_live_activities
from db.push_reservations import reserve_sends
from db.push_tokens import PushTokenRecord, share_push_tokens
from db.records import NewEvent
from db.takeovers import find_sent_before
from engine.channels.base import Message, Outcome, Postpone, Prepared, Ready, Refuse, Settled, Suppress
from engine.channels.push_message import ApnsMessage, FcmMessage, WebPushMessage
from engine.dispatch.values import Channel, DeliveryError, PushContent, SuppressedReason
from engine.providers.credentials import ProviderCredentials
from engine.push.accounts import Account, account_for, activity_message, notification_message, read_accounts
from engine.push.live_activities import SENDABLE_STATES, ActivityState, activity_key
from engine.push.policy import Decision, HoldBack, PolicyToken, PutOff
from engine.push.settlement import settle_pushes
from engine.push.standing import Standings, lock_standings
from engine.vault import Vault

if TYPE_CHECKING:
    import asyncpg

STARTING_PAUSE = timedelta(seconds=5)
"""An app gives the token of an activity that was just started within a second or two."""
STARTING_PATIENCE = timedelta(minutes=2)
"""After this it does not come any more: the device was off, or the app refused to start it."""

_CHANGED_HANDS = DeliveryError(
    "DeviceChangedHands",
    "Since this was made the device was registered by somebody else, signed off, or given up by its push service.",
    permanent=True,
    hint="Nothing has to be done: what was meant for one person is not shown to another.",
)
_HAS_IT = DeliveryError(
    "DeviceHasIt",
    "This device got the same send before: to the anonymous user who is this person since they signed in there.",
    permanent=True,
    hint="Nothing has to be done: nobody gets a message twice.",
)
_NO_ACTIVITY = DeliveryError(
    "NoLiveActivity",
    "The device has no such Live Activity, or none that can be started.",
    permanent=True,
    hint="Register its token with registerLiveActivityToken; an activity that has ended takes no updates.",
)

_content_of = msgspec.json.Decoder(PushContent).decode
M = TypeVar("M", contravariant=True)


class Sender(Protocol[M]):
    """One push service."""

    async def send(self, message: M) -> Outcome:
        """One attempt."""


class ClosingSender(Sender[M], Protocol[M]):
    """One that holds connections or tasks of its own."""

    async def close(self) -> None:
        """Close them."""


class _Due(msgspec.Struct, frozen=True):
    """A delivery with what is known of it. `token` is None where it is not the recipient's any more, or where the
    device got this very send when it was not yet: `has_it`."""

    delivery: DeliveryRecord
    content: PushContent
    token: PushTokenRecord | None
    has_it: bool = False


class _Known(msgspec.Struct, frozen=True):
    """What messages are made from."""

    accounts: Mapping[str, Account]
    activities: Mapping[ActivityKey, LiveActivityRecord]
    now: datetime


class PushWork:
    """See `ChannelWork`. `contact` is a `mailto:` or `https:` URL for push services whose project set none."""

    channel = Channel.PUSH

    def __init__(
        self,
        vault: Vault,
        *,
        contact: str,
        apns: ClosingSender[ApnsMessage],
        fcm: ClosingSender[FcmMessage],
        web_push: Sender[WebPushMessage],
    ) -> None:
        self._vault = vault
        self._contact = contact
        self._apns = apns
        self._fcm = fcm
        self._web_push = web_push

    async def prepare(
        self, connection: asyncpg.Connection, *, project_id: UUID, deliveries: Sequence[DeliveryRecord], now: datetime
    ) -> Mapping[UUID, Prepared]:
        """See `ChannelWork.prepare`."""
        contents = {each.delivery_id: _content_of(each.content) for each in deliveries}
        standings = await lock_standings(
            connection,
            project_id=project_id,
            user_ids=[each.user_id for each in deliveries if each.user_id is not None],
            message_ids=[content.message_id for content in contents.values()],
            now=now,
        )
        tokens = await _own_tokens(connection, project_id, deliveries)
        having = await _having_it(connection, project_id, deliveries, tokens)
        due = [
            _Due(
                each,
                contents[each.delivery_id],
                None if each.delivery_id in having else tokens.get(each.delivery_id),
                each.delivery_id in having,
            )
            for each in sorted(deliveries, key=lambda each: each.delivery_id)
        ]
        known = await self._read_known(connection, project_id, due, now)
        prepared: dict[UUID, Prepared] = {}
        for group in _by_send(due):
            prepared.update(self._decide(standings, known, group))
        await reserve_sends(connection, project_id=project_id, reservations=standings.reservations, now=now)
        return prepared

    async def send(self, message: Message) -> Outcome:
        """See `ChannelWork.send`."""
        match message:
            case ApnsMessage():
                return await self._apns.send(message)
            case FcmMessage():
                return await self._fcm.send(message)
            case WebPushMessage():
                return await self._web_push.send(message)
        raise TypeError(f"{type(message).__name__} is no push")

    async def settle(
        self, connection: asyncpg.Connection, *, project_id: UUID, settled: Sequence[Settled], now: datetime
    ) -> Sequence[NewEvent]:
        """See `ChannelWork.settle`."""
        return await settle_pushes(connection, project_id=project_id, settled=settled, now=now)

    async def close(self) -> None:
        """Close connections."""
        await self._apns.close()
        await self._fcm.close()

    async def _read_known(
        self, connection: asyncpg.Connection, project_id: UUID, due: Sequence[_Due], now: datetime
    ) -> _Known:
        keys = {
            activity_key(each.token.push_token_id, each.content.live_activity)
            for each in due
            if each.token is not None and each.content.live_activity is not None
        }
        activities: Mapping[ActivityKey, LiveActivityRecord] = {}
        if keys:
            activities = await share_live_activities(connection, project_id=project_id, keys=list(keys))
        platforms = {each.token.platform for each in due if each.token is not None}
        accounts = await read_accounts(connection, self._vault, project_id=project_id, platforms=platforms, now=now)
        return _Known(accounts, activities, now)

    def _decide(self, standings: Standings, known: _Known, group: Sequence[_Due]) -> Mapping[UUID, Prepared]:
        """About one send to one person's devices."""
        first = group[0]
        user_id = first.delivery.user_id
        if user_id is not None and user_id not in standings.present:
            return {each.delivery.delivery_id: Suppress(reason=SuppressedReason.ERASED) for each in group}
        reachable = [(each, each.token) for each in group if each.token is not None]
        prepared: dict[UUID, Prepared] = {
            each.delivery.delivery_id: Suppress(reason=SuppressedReason.NO_TOKENS, error=_gone(each))
            for each in group
            if each.token is None
        }
        if not reachable:
            return prepared
        decisions = standings.decide(
            first.content,
            batch_id=first.delivery.batch_id,
            user_id=user_id,
            device=reachable[0][1].push_token_id,
            tokens=[
                PolicyToken(timezone=token.timezone, locale=token.locale, variant=each.delivery.variant)
                for each, token in reachable
            ],
        )
        for (each, token), decision in zip(reachable, decisions, strict=True):
            delivery_id = each.delivery.delivery_id
            answer = self._prepare(each, token, decision, known)
            if isinstance(answer, Ready):
                standings.count(
                    each.content,
                    batch_id=each.delivery.batch_id,
                    user_id=user_id,
                    delivery_id=delivery_id,
                    decision=decision,
                )
            prepared[delivery_id] = answer
        return prepared

    def _prepare(self, due: _Due, token: PushTokenRecord, decision: Decision, known: _Known) -> Prepared:
        if isinstance(decision, HoldBack):
            return Suppress(reason=decision.reason)
        if isinstance(decision, PutOff):
            return Postpone(until=decision.until)
        account = account_for(token, known.accounts[token.platform])
        if isinstance(account, DeliveryError):
            return Refuse(error=account)
        if decision.notification is None:
            return _prepare_activity(due, token, account, known)
        message = notification_message(due.delivery, token, account, decision.notification, contact=self._contact)
        return Ready(
            message=message,
            payload=msgspec.json.encode(decision.notification).decode(),
            variant=decision.variant,
            locale=decision.locale,
        )


def _prepare_activity(due: _Due, token: PushTokenRecord, account: ProviderCredentials, known: _Known) -> Prepared:
    change = due.content.live_activity
    if change is None:
        raise ValueError("a push without text changes a Live Activity")
    activity = known.activities.get(activity_key(token.push_token_id, change))
    if activity is not None and activity.state == ActivityState.STARTING:
        is_expected = known.now < activity.updated_at + STARTING_PATIENCE
        if is_expected:
            return Postpone(until=known.now + STARTING_PAUSE)
    if activity is None or activity.token is None or activity.state not in SENDABLE_STATES:
        return Suppress(reason=SuppressedReason.NO_TOKENS, error=_NO_ACTIVITY)
    return Ready(
        message=activity_message(due.delivery, token, account, change, activity),
        payload=msgspec.json.encode(change).decode(),
    )


async def _own_tokens(
    connection: asyncpg.Connection, project_id: UUID, deliveries: Iterable[DeliveryRecord]
) -> Mapping[UUID, PushTokenRecord]:
    """By delivery: the device it was made for, where that is active and still its recipient's."""
    wanted = {each.delivery_id: each for each in deliveries if each.push_token_id is not None}
    ids = {each.push_token_id for each in wanted.values() if each.push_token_id is not None}
    found = await share_push_tokens(connection, project_id=project_id, push_token_ids=sorted(ids))
    tokens = {token.push_token_id: token for token in found if token.active}
    return {
        delivery_id: tokens[each.push_token_id]
        for delivery_id, each in wanted.items()
        if each.push_token_id in tokens and tokens[each.push_token_id].owner_generation == each.owner_generation
    }


def _by_send(due: Iterable[_Due]) -> Iterable[Sequence[_Due]]:
    """Deliveries of one message and batch to one person, in the order of their first one."""
    groups: defaultdict[tuple[object, UUID, UUID | None], list[_Due]] = defaultdict(list)
    for each in due:
        person = each.delivery.user_id if each.delivery.user_id is not None else each.delivery.push_token_id
        groups[person, each.content.message_id, each.delivery.batch_id].append(each)
    return groups.values()


async def _having_it(
    connection: asyncpg.Connection,
    project_id: UUID,
    deliveries: Iterable[DeliveryRecord],
    tokens: Mapping[UUID, PushTokenRecord],
) -> set[UUID]:
    """The deliveries of sends that reached their device before it was taken over: pages of an audience are planned one
    after the other, and both users may be in it. Asked only of devices that had an owner before."""
    known = {
        each.delivery_id: (each.user_id, each.batch_id, tokens[each.delivery_id].push_token_id)
        for each in deliveries
        if each.delivery_id in tokens
        and tokens[each.delivery_id].owner_generation > 1
        and each.user_id is not None
        and each.batch_id is not None
    }
    if not known:
        return set()
    found = await find_sent_before(
        connection,
        project_id=project_id,
        user_ids=sorted({user_id for user_id, _, _ in known.values()}),
        batch_ids=sorted({batch_id for _, batch_id, _ in known.values()}),
        push_token_ids=sorted({push_token_id for _, _, push_token_id in known.values()}),
    )
    return {
        delivery_id for delivery_id, (_, batch_id, push_token_id) in known.items() if (batch_id, push_token_id) in found
    }


def _gone(due: _Due) -> DeliveryError | None:
    """What to say of a device that was there when the delivery was made."""
    if due.has_it:
        return _HAS_IT
    return None if due.delivery.push_token_id is None else _CHANGED_HANDS
