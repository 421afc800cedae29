"""The status machine: every walk that it allows is one that makes sense."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.delivery_records import NewDelivery, NewTransition
from engine.dispatch.status import NEXT, PENDING, event_of, may_follow, transition_of
from engine.dispatch.values import Channel, DeliveryStatus
from tests.integration.dispatch_support import new_delivery

S = DeliveryStatus
DELIVERY = new_delivery(datetime(2026, 5, 1, tzinfo=UTC), channel=Channel.PUSH, user_id="u1", batch_id=UUID(int=3))


@given(data=st.data())
def test_a_walk_through_the_machine_never_sends_without_sending(data: st.DataObject) -> None:
    walk: list[S] = [data.draw(st.sampled_from(sorted(NEXT[None])))]
    for _ in range(data.draw(st.integers(1, 20))):
        walk.append(data.draw(st.sampled_from(sorted(NEXT[walk[-1]]))))

    for number, status in enumerate(walk):
        if status in (S.SENT, S.UNCERTAIN, S.DEAD_LETTERED):
            assert {S.SENDING, S.RETRYING} & set(walk[:number])
        if status is S.RETRYING:
            assert walk[number - 1] is S.SENDING


def test_every_status_leads_somewhere_and_is_led_to() -> None:
    assert set(NEXT) == {None, *S}
    assert set().union(*NEXT.values()) == set(S)
    assert all(S.CANCELLED in NEXT[status] for status in PENDING)


@given(before=st.sampled_from([None, *S]), after=st.sampled_from(list(S)))
def test_a_transition_is_made_only_for_a_step_that_the_machine_has(before: S | None, after: S) -> None:
    if may_follow(before, after):
        made = transition_of(DELIVERY, before=before, after=after, attempt_number=2, error_code="Throttled")
        assert (made.from_status, made.to_status, made.attempt_number) == (before, after, 2)
        assert (made.delivery_id, made.user_id, made.batch_id) == (DELIVERY.delivery_id, "u1", UUID(int=3))
    else:
        with pytest.raises(ValueError, match="does not go from"):
            transition_of(DELIVERY, before=before, after=after)


def test_each_step_has_an_event_of_its_own() -> None:
    """An event's key is stored once: a second cancellation, after a replay, must not look like the first."""
    first = msgspec.structs.replace(DELIVERY, next_attempt_at=datetime(2026, 5, 2, tzinfo=UTC))
    replayed = msgspec.structs.replace(first, batch_id=UUID(int=4))
    later = msgspec.structs.replace(first, next_attempt_at=datetime(2026, 5, 3, tzinfo=UTC))

    def key(delivery: NewDelivery, after: S, attempt: int | None = None) -> str:
        event = event_of(delivery, _step(delivery, after, attempt))
        assert event is not None
        return event.key

    steps = [
        (first, S.CANCELLED, None),
        (replayed, S.CANCELLED, None),
        (first, S.SCHEDULED, None),
        (later, S.SCHEDULED, None),
        (first, S.SENT, 1),
        (first, S.SENT, 2),
    ]
    keys = [key(*step) for step in steps]
    assert len(set(keys)) == len(keys)
    assert keys == [key(*step) for step in steps]
    assert max(map(len, keys)) <= 128


def _step(delivery: NewDelivery, after: S, attempt: int | None) -> NewTransition:
    before = next(status for status, following in NEXT.items() if status is not None and after in following)
    return transition_of(delivery, before=before, after=after, attempt_number=attempt)
