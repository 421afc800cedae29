"""From a push that was asked for to its deliveries: one for each active device of each person.

Guarantees: what is due now has been through the policy, so that the answer's counts are true; the caps that it takes up
are reserved in the same transaction. What is due later is decided about when it is due. Everything is decided again at
dispatch (`engine.push.work`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.delivery_records import NewDelivery
from db.live_activities import share_live_activities
from db.push_reservations import reserve_sends
from db.push_tokens import PushTokenRecord, read_push_tokens, share_active_tokens, share_push_tokens
from engine.dispatch.sending import SendRefused, check_size
from engine.dispatch.values import (
    DEFAULT_PROVIDER_SCHEDULE,
    Channel,
    DeliveryStatus,
    PushContent,
    SuppressedReason,
    host_key,
)
from engine.errors import UserError
from engine.push.live_activities import REACHABLE_STATES, activity_key
from engine.push.policy import Decision, HoldBack, PolicyToken, PutOff, Send
from engine.push.standing import Standings, lock_standings

if TYPE_CHECKING:
    import asyncpg

NOWHERE = "push"
"""The dispatch key of what goes to no device."""


class PushRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A push to some people. `now` is business time; without `scheduled_for` it is due now.

    What follows is what its deliveries carry when a step of a workflow asks for it: the run and the step, the event
    that started the run, and how far that one is from what a client sent.
    """

    project_id: UUID
    batch_id: UUID | None
    content: PushContent
    now: datetime
    scheduled_for: datetime | None = None
    workflow_id: UUID | None = None
    workflow_run_id: UUID | None = None
    workflow_step_number: int | None = None
    event_seq: int | None = None
    event_type: str | None = None
    depth: int = 0


async def plan_for_people(
    connection: asyncpg.Connection, request: PushRequest, *, user_ids: Iterable[str]
) -> list[NewDelivery]:
    """One delivery per active device, and one that is suppressed for whoever has none.

    Raises `SendRefused` when they would hold too much together.
    """
    people = sorted(set(user_ids))
    standings = await _standings(connection, request, people)
    tokens = await share_active_tokens(connection, project_id=request.project_id, user_ids=people)
    if request.content.live_activity is not None:
        tokens = await _with_activity(connection, request, tokens)
    by_user: defaultdict[str, list[PushTokenRecord]] = defaultdict(list)
    for token in tokens:
        by_user[token.user_id or ""].append(token)
    return await _plan(connection, request, standings, {user_id: by_user[user_id] for user_id in people})


async def plan_for_device(
    connection: asyncpg.Connection, request: PushRequest, *, push_token_id: UUID, path: tuple[str, ...]
) -> list[NewDelivery]:
    """One delivery. Raises `SendRefused`, with `path`, for a device that is not there, or not active."""
    found = await read_push_tokens(connection, project_id=request.project_id, push_token_ids=[push_token_id])
    people = [token.user_id for token in found if token.user_id is not None]
    standings = await _standings(connection, request, people)
    tokens = await share_push_tokens(connection, project_id=request.project_id, push_token_ids=[push_token_id])
    token = tokens[0] if tokens else None
    if token is None:
        raise SendRefused(UserError("This project has no such push token.", "NOT_FOUND", path))
    if not token.active:
        message = f"This device cannot be reached any more ({token.invalidated_reason}): it has to register again."
        raise SendRefused(UserError(message, "STATE", path))
    if token.owner_generation != found[0].owner_generation:
        raise SendRefused(UserError("This device has just changed hands: try again.", "CONFLICT", path))
    if request.content.live_activity is not None:
        tokens = await _with_activity(connection, request, tokens)
    return await _plan(connection, request, standings, {token.user_id: tokens})


def dispatch_key(token: PushTokenRecord) -> str:
    """What shares a concurrency limit and a circuit breaker with this device."""
    return {"IOS": "apns", "ANDROID": "fcm"}.get(token.platform) or host_key(token.token)


async def _standings(connection: asyncpg.Connection, request: PushRequest, people: Sequence[str]) -> Standings:
    return await lock_standings(
        connection,
        project_id=request.project_id,
        user_ids=people,
        message_ids=[request.content.message_id],
        now=request.now,
    )


async def _with_activity(
    connection: asyncpg.Connection, request: PushRequest, tokens: Sequence[PushTokenRecord]
) -> list[PushTokenRecord]:
    """The devices on which this Live Activity can be started, or runs."""
    change = request.content.live_activity
    if change is None:
        return list(tokens)
    keys = {token.push_token_id: activity_key(token.push_token_id, change) for token in tokens}
    found = await share_live_activities(connection, project_id=request.project_id, keys=list(keys.values()))
    reachable = {key for key, activity in found.items() if activity.state in REACHABLE_STATES}
    return [token for token in tokens if keys[token.push_token_id] in reachable]


async def _plan(
    connection: asyncpg.Connection,
    request: PushRequest,
    standings: Standings,
    tokens_of: Mapping[str | None, Sequence[PushTokenRecord]],
) -> list[NewDelivery]:
    text = msgspec.json.encode(request.content).decode()
    count = sum(max(1, len(tokens)) for tokens in tokens_of.values())
    check_size(count * len(text.encode()))
    deliveries = [
        delivery
        for user_id, tokens in tokens_of.items()
        for delivery in deliveries_of(request, standings, text, user_id, tokens)
    ]
    await reserve_sends(connection, project_id=request.project_id, reservations=standings.reservations, now=request.now)
    return deliveries


def deliveries_of(
    request: PushRequest, standings: Standings, text: str, user_id: str | None, tokens: Sequence[PushTokenRecord]
) -> list[NewDelivery]:
    """One person's, or those of devices nobody is known to use. `text` is the content as JSON. What is sent counts in
    `standings` from then on, and is to be reserved (`Standings.reservations`)."""
    if request.scheduled_for is not None and tokens:
        later = PutOff(request.scheduled_for)
        return [_delivery(request, text, user_id, token, later) for token in tokens]
    device = tokens[0].push_token_id if tokens else None
    if request.scheduled_for is not None:
        return [_delivery(request, text, user_id, None, HoldBack(SuppressedReason.NO_TOKENS))]
    decisions = standings.decide(
        request.content,
        batch_id=request.batch_id,
        user_id=user_id,
        device=device,
        tokens=[PolicyToken(timezone=token.timezone, locale=token.locale) for token in tokens],
    )
    if not tokens:
        return [_delivery(request, text, user_id, None, decisions[0])]
    deliveries = []
    for token, decision in zip(tokens, decisions, strict=True):
        delivery = _delivery(request, text, user_id, token, decision)
        standings.count(
            request.content,
            batch_id=request.batch_id,
            user_id=user_id,
            delivery_id=delivery.delivery_id,
            decision=decision,
        )
        deliveries.append(delivery)
    return deliveries


def _delivery(
    request: PushRequest, text: str, user_id: str | None, token: PushTokenRecord | None, decision: Decision
) -> NewDelivery:
    status, due = DeliveryStatus.QUEUED, request.now
    if isinstance(decision, PutOff):
        status, due = DeliveryStatus.SCHEDULED, decision.until
    is_held = isinstance(decision, HoldBack)
    if is_held:
        status = DeliveryStatus.SUPPRESSED
    return NewDelivery(
        delivery_id=uuid7(),
        channel=Channel.PUSH,
        status=status,
        dispatch_key=NOWHERE if token is None else dispatch_key(token),
        content=text,
        retry_schedule=DEFAULT_PROVIDER_SCHEDULE,
        created_at=request.now,
        next_attempt_at=None if is_held else due,
        scheduled_for=due if status is DeliveryStatus.SCHEDULED else None,
        finished_at=request.now if is_held else None,
        suppressed_reason=decision.reason if isinstance(decision, HoldBack) else None,
        batch_id=request.batch_id,
        user_id=user_id,
        workflow_id=request.workflow_id,
        workflow_run_id=request.workflow_run_id,
        workflow_step_number=request.workflow_step_number,
        event_seq=request.event_seq,
        event_type=request.event_type,
        depth=request.depth,
        push_token_id=None if token is None else token.push_token_id,
        owner_generation=None if token is None else token.owner_generation,
        variant=decision.variant if isinstance(decision, Send) else None,
        locale=decision.locale if isinstance(decision, Send) else None,
    )
