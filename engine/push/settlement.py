"""What the outcomes of pushes mean beyond their deliveries.

Guarantees: a token that its push service gave up becomes inactive, once, with the service's word as the reason and one
event; the environment that took a push is the token's from then on; the account shows what it was last refused for, and
no more once something is taken. Locks, in this order: push tokens, Live Activities, providers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.delivery_records import DeliveryRecord
from db.live_activities import ActivityKey, EndedActivity, begin_live_activities, end_live_activities
from db.providers import read_providers_by_kind
from db.push_tokens import TokenOutcome, settle_push_tokens
from db.records import NewEvent
from engine.channels.base import Accepted, Deferred, Outcome, Rejected, Settled
from engine.channels.push_message import ApnsMessage, FcmMessage, PushAccepted, PushRejected
from engine.dispatch.status import delivery_event
from engine.dispatch.values import LiveActivity
from engine.node_ids import NodeKind, write_node_id
from engine.providers.refusals import note_provider_error
from engine.providers.values import ProviderKind
from engine.push.live_activities import ActivityAction, ActivityState, activity_key, started_key

if TYPE_CHECKING:
    import asyncpg

_EVENTS: Mapping[str, str] = {
    ActivityAction.START: "push.live_activity_started",
    ActivityAction.UPDATE: "push.live_activity_updated",
    ActivityAction.END: "push.live_activity_ended",
}


class _Change(msgspec.Struct, frozen=True):
    """A change of a Live Activity that was tried."""

    delivery: DeliveryRecord
    push_token_id: UUID
    activity: LiveActivity
    token: str
    outcome: Outcome


async def settle_pushes(
    connection: asyncpg.Connection, *, project_id: UUID, settled: Sequence[Settled], now: datetime
) -> list[NewEvent]:
    """Write what follows; returns the events to append. `now` is business time."""
    changes = [change for each in settled if (change := _change_of(each)) is not None]
    events = await _settle_tokens(connection, project_id, settled, now)
    events += await _settle_activities(connection, project_id, changes, now)
    await _settle_accounts(connection, project_id, settled)
    return events


async def _settle_tokens(
    connection: asyncpg.Connection, project_id: UUID, settled: Sequence[Settled], now: datetime
) -> list[NewEvent]:
    outcomes: dict[UUID, TokenOutcome] = {}
    about: dict[UUID, DeliveryRecord] = {}
    for each in settled:
        push_token_id = each.delivery.push_token_id
        found = None if push_token_id is None else _token_outcome(push_token_id, each)
        if push_token_id is None or found is None:
            continue
        outcomes[push_token_id] = _both(outcomes.get(push_token_id), found)
        if found.reason is not None:
            about[push_token_id] = each.delivery
    if not outcomes:
        return []
    dead = await settle_push_tokens(connection, project_id=project_id, outcomes=list(outcomes.values()), now=now)
    return [
        delivery_event(
            about[push_token_id],
            "push.token_invalidated",
            # A replay may find it dead once more, after it was registered again.
            number=about[push_token_id].attempt_count,
            properties={
                "pushTokenId": write_node_id(NodeKind.PUSH_TOKEN, push_token_id),
                "reason": outcomes[push_token_id].reason,
            },
        )
        for push_token_id in sorted(dead)
    ]


def _token_outcome(push_token_id: UUID, settled: Settled) -> TokenOutcome | None:
    """What an attempt shows of its device. A Live Activity's token is another one than the device's."""
    outcome = settled.outcome
    if isinstance(outcome, Accepted):
        environment = outcome.environment if isinstance(outcome, PushAccepted) else None
        return TokenOutcome(push_token_id=push_token_id, is_used=True, environment=environment)
    if isinstance(outcome, Rejected) and outcome.address_is_dead and not _is_activity(settled):
        dead_since = outcome.dead_since if isinstance(outcome, PushRejected) else None
        return TokenOutcome(push_token_id=push_token_id, reason=outcome.error.code, dead_since=dead_since)
    return None


def _both(first: TokenOutcome | None, second: TokenOutcome) -> TokenOutcome:
    if first is None:
        return second
    return TokenOutcome(
        push_token_id=second.push_token_id,
        is_used=first.is_used or second.is_used,
        environment=second.environment or first.environment,
        reason=second.reason or first.reason,
        dead_since=second.dead_since if second.reason is not None else first.dead_since,
    )


def _is_activity(settled: Settled) -> bool:
    return isinstance(settled.message, ApnsMessage) and settled.message.live_activity is not None


def _change_of(settled: Settled) -> _Change | None:
    message, push_token_id = settled.message, settled.delivery.push_token_id
    if not isinstance(message, ApnsMessage) or message.live_activity is None or push_token_id is None:
        return None
    return _Change(settled.delivery, push_token_id, message.live_activity, message.device_token, settled.outcome)


async def _settle_activities(
    connection: asyncpg.Connection, project_id: UUID, changes: Sequence[_Change], now: datetime
) -> list[NewEvent]:
    taken = [each for each in changes if isinstance(each.outcome, Accepted)]
    started = {
        started_key(each.push_token_id, each.activity): uuid7()
        for each in taken
        if each.activity.action == ActivityAction.START
    }
    if started:
        await begin_live_activities(connection, project_id=project_id, started=started, now=now)
    dead = {
        activity_key(each.push_token_id, each.activity): each
        for each in changes
        if isinstance(each.outcome, Rejected) and each.outcome.address_is_dead
    }
    ended: dict[ActivityKey, EndedActivity] = {
        activity_key(each.push_token_id, each.activity): EndedActivity(each.token, ActivityState.ENDED)
        for each in taken
        if each.activity.action == ActivityAction.END
    }
    ended |= {key: EndedActivity(each.token, ActivityState.INVALIDATED) for key, each in dead.items()}
    changed: set[ActivityKey] = set()
    if ended:
        changed = await end_live_activities(connection, project_id=project_id, ended=ended, now=now)
    return [
        *(_event(each, _EVENTS[each.activity.action]) for each in taken),
        *(_event(each, "push.live_activity_invalidated") for key, each in dead.items() if key in changed),
    ]


def _event(change: _Change, event_type: str) -> NewEvent:
    named = {"attributesType": change.activity.attributes_type, "activityId": change.activity.activity_id}
    return delivery_event(change.delivery, event_type, number=change.delivery.attempt_count, properties=named)


async def _settle_accounts(connection: asyncpg.Connection, project_id: UUID, settled: Sequence[Settled]) -> None:
    """The last word of each account in this round."""
    said: dict[str, str | None] = {}
    for each in settled:
        if isinstance(each.outcome, Accepted):
            said[_kind(each)] = None
        elif isinstance(each.outcome, Deferred) and each.outcome.is_account:
            said[_kind(each)] = f"{each.outcome.error.code}: {each.outcome.error.message}"
    if not said:
        return
    for provider in await read_providers_by_kind(connection, project_id=project_id, kinds=sorted(said)):
        if provider.last_error != said[provider.kind]:
            await note_provider_error(connection, project_id, provider.provider_id, said[provider.kind])


def _kind(settled: Settled) -> str:
    if isinstance(settled.message, ApnsMessage):
        return ProviderKind.APNS
    return ProviderKind.FCM if isinstance(settled.message, FcmMessage) else ProviderKind.WEB_PUSH
