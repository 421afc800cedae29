"""Push as the dispatcher uses it: what is prepared under which locks, and what outcomes leave behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from uuid_utils.compat import uuid7

from db.database import Database
from db.deliveries import read_deliveries
from db.delivery_filters import DeliveryFilter
from db.delivery_records import DeliveryRecord
from db.live_activities import ActivityKey, register_live_activity
from db.projects import insert_organization, insert_project
from db.push_settings import PushSettingsRecord, lock_push_settings, write_push_settings
from db.push_tokens import (
    NewPushToken,
    PushTokenRecord,
    read_push_tokens,
    register_push_token,
    unregister_push_token,
)
from db.records import NewEvent
from db.replays import read_replay_set
from engine.audit import SYSTEM, Audit
from engine.channels.base import (
    Accepted,
    Deferred,
    Outcome,
    Postpone,
    Prepared,
    Ready,
    Refuse,
    Rejected,
    Settled,
    Suppress,
)
from engine.channels.push_message import (
    ApnsMessage,
    FcmMessage,
    PushAccepted,
    PushEnvironment,
    PushRejected,
    WebPushMessage,
)
from engine.consent import ConsentPurpose, ConsentState, set_consent
from engine.dispatch.ledger import create_deliveries
from engine.dispatch.replaying import BulkReplay, Replays
from engine.dispatch.values import (
    DeliveryError,
    LiveActivity,
    LocalizedPush,
    PushContent,
    PushNotification,
    PushVariant,
    SuppressedReason,
)
from engine.providers.credentials import lock_credentials, store_credentials
from engine.push.accepting import PushRequest, plan_for_people
from engine.push.vapid import read_vapid
from engine.push.work import PushWork
from engine.vault import Vault
from tests.integration.dispatch_support import TestClock
from tests.integration.log_support import SALT, open_database

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
HELLO = PushNotification(title="Hello", body="there")
VAULT = Vault(b"a secret of tests, long enough for it")
P256DH = "BNcRdreALRFXTkOOUHK1EtK2wtaz5Ry4YfYCA_0QTpQtUbVlUls0VJXg7A8u-Ts1XbjhazAkj7I99e8QcYP7DkM"
AUTH = "tBHItJI5svbpez7KI4CCXg"


class _Nowhere:
    """Push services that nothing may be sent to: these tests only prepare and settle."""

    async def send(self, message: object) -> Outcome:
        raise AssertionError("nothing is sent here")

    async def close(self) -> None:
        return


class Desk:
    """A project, and push as its worker sees it."""

    def __init__(self, database: Database, project_id: UUID) -> None:
        self.database = database
        self.project_id = project_id
        nowhere = _Nowhere()
        self.work = PushWork(VAULT, contact="mailto:ops@example.com", apns=nowhere, fcm=nowhere, web_push=nowhere)

    async def configure(self, kind: str, settings: Mapping[str, Any], secrets: Mapping[str, Any]) -> None:
        async with self.database.transaction() as connection:
            held = await lock_credentials(connection, VAULT, project_id=self.project_id, kind=kind, now=NOW)
            changed = msgspec.structs.replace(held, settings=settings, secrets=secrets)
            await store_credentials(connection, VAULT, changed, project_id=self.project_id, now=NOW)

    async def configure_all(self) -> None:
        apns = {"keyId": "A" * 10, "teamId": "B" * 10, "bundleId": "com.example.shop"}
        await self.configure("APNS", apns, {"privateKey": "a .p8"})
        await self.configure("FCM", {}, {"serviceAccount": {"type": "service_account"}})

    async def rules(self, **changes: Any) -> None:
        async with self.database.transaction() as connection:
            await lock_push_settings(connection, project_id=self.project_id)
            settings = PushSettingsRecord(**changes)
            await write_push_settings(connection, project_id=self.project_id, settings=settings)

    async def device(self, user_id: str | None = "ada", *, platform: str = "IOS", **fields: Any) -> PushTokenRecord:
        tokens = {"IOS": uuid4().hex, "ANDROID": f"fcm:{uuid4()}", "WEB": f"https://push.example/{uuid4()}"}
        keys = msgspec.json.encode({"p256dh": P256DH, "auth": AUTH}).decode() if platform == "WEB" else None
        known: dict[str, Any] = {
            "push_token_id": uuid7(),
            "platform": platform,
            "environment": "PRODUCTION",
            "token": tokens[platform],
            "web_push_keys": keys,
            "user_id": user_id,
            "timezone": None,
            "locale": None,
            "app_version": None,
        }
        async with self.database.transaction() as connection:
            new = NewPushToken(**{**known, **fields})
            return await register_push_token(connection, project_id=self.project_id, new=new, now=NOW)

    async def token(self, record: PushTokenRecord) -> PushTokenRecord:
        async with self.database.connection() as connection:
            [found] = await read_push_tokens(
                connection, project_id=self.project_id, push_token_ids=[record.push_token_id]
            )
        return found

    async def push(
        self, *user_ids: str, now: datetime = NOW, later: bool = True, **content: Any
    ) -> list[DeliveryRecord]:
        """Accept a push; `later`: it was asked for an hour ahead, so that nothing was decided about it yet."""
        scheduled_for = now + timedelta(hours=1) if later else None
        message_id = content.pop("message_id", None) or uuid7()
        if "live_activity" not in content:
            content.setdefault("push", HELLO)
        request = PushRequest(
            project_id=self.project_id,
            batch_id=None,
            content=PushContent(message_id=message_id, **content),
            now=now,
            scheduled_for=scheduled_for,
        )
        async with self.database.transaction() as connection:
            made = await plan_for_people(connection, request, user_ids=user_ids or ("ada",))
            await create_deliveries(connection, project_id=self.project_id, deliveries=made, now=now)
        return await self.read(*(each.delivery_id for each in made))

    async def read(self, *delivery_ids: UUID) -> list[DeliveryRecord]:
        async with self.database.connection() as connection:
            found = await read_deliveries(connection, project_id=self.project_id, delivery_ids=delivery_ids)
        return sorted(found, key=lambda each: each.delivery_id)

    async def prepare(self, deliveries: Sequence[DeliveryRecord], *, now: datetime = NOW) -> list[Prepared]:
        async with self.preparing(deliveries, now=now) as prepared:
            return prepared

    @asynccontextmanager
    async def preparing(
        self, deliveries: Sequence[DeliveryRecord], *, now: datetime = NOW
    ) -> AsyncIterator[list[Prepared]]:
        """Commits at the end of the block, and writes what the dispatcher would: held back is SUPPRESSED."""
        async with self.database.transaction() as connection:
            found = await self.work.prepare(connection, project_id=self.project_id, deliveries=deliveries, now=now)
            assert found.keys() == {each.delivery_id for each in deliveries}
            for each in deliveries:
                await _write(connection, self.project_id, each, found[each.delivery_id])
            yield [found[each.delivery_id] for each in deliveries]

    async def replay(self, deliveries: Sequence[DeliveryRecord], *, now: datetime = NOW) -> list[DeliveryRecord]:
        """Replay all of them at once."""
        ids = [each.delivery_id for each in deliveries]
        which = DeliveryFilter(ids=tuple(ids))
        async with self.database.connection() as connection:
            found = await read_replay_set(connection, project_id=self.project_id, delivery_filter=which)
        replays = Replays(self.database, TestClock(now), lambda announcement: None, lambda work: None)
        begun = await replays.begin(
            project_id=self.project_id, delivery_filter=which, found=found, audit=Audit(SYSTEM, now)
        )
        assert isinstance(begun, BulkReplay)
        assert begun.replayed == len(ids)
        return await self.read(*ids)

    async def settle(self, *settled: tuple[DeliveryRecord, Prepared, Outcome]) -> list[str]:
        """The types of the events that follow."""
        return [event.event_type for event in await self.settled(*settled)]

    async def settled(self, *settled: tuple[DeliveryRecord, Prepared, Outcome]) -> Sequence[NewEvent]:
        async with self.database.transaction() as connection:
            return await self.work.settle(
                connection,
                project_id=self.project_id,
                settled=[
                    Settled(delivery, prepared.message, outcome)
                    for delivery, prepared, outcome in settled
                    if isinstance(prepared, Ready)
                ],
                now=NOW,
            )

    async def consent(self, user_id: str, state: ConsentState) -> str | None:
        async with self.database.transaction() as connection:
            changed = await set_consent(
                connection,
                project_id=self.project_id,
                user_id=user_id,
                purpose=ConsentPurpose.PUSH,
                state=state,
                source="test",
                actor="test",
                now=NOW,
            )
        return None if changed is None else changed.event.event_type


async def _write(
    connection: asyncpg.Connection, project_id: UUID, delivery: DeliveryRecord, prepared: Prepared
) -> None:
    status = {Suppress: "SUPPRESSED", Postpone: "SCHEDULED", Refuse: "FAILED"}.get(type(prepared), "SENT")
    await connection.execute(
        "UPDATE deliveries SET status = $3, next_attempt_at = $4 WHERE project_id = $1 AND delivery_id = $2",
        project_id,
        delivery.delivery_id,
        status,
        prepared.until if isinstance(prepared, Postpone) else None,
    )


@asynccontextmanager
async def opened(url: str, *, region: str = "us", **options: Any) -> AsyncIterator[Desk]:
    async with open_database(url, **options) as database:
        project_id, organization_id = uuid4(), uuid4()
        async with database.transaction() as connection:
            await insert_organization(connection, organization_id=organization_id, name="Acme", region=region)
            await insert_project(
                connection,
                project_id=project_id,
                organization_id=organization_id,
                name="shop",
                region=region,
                salt=SALT,
            )
        desk = Desk(database, project_id)
        await desk.configure_all()
        yield desk


@pytest.fixture
async def desk(module_database_url: str) -> AsyncIterator[Desk]:
    async with opened(module_database_url) as found:
        yield found


def reasons(prepared: Sequence[Prepared]) -> list[SuppressedReason | None]:
    """Why each was held back; None where it was not."""
    return [each.reason if isinstance(each, Suppress) else None for each in prepared]


# ── messages ──


async def test_each_platform_gets_its_message_with_the_projects_account(desk: Desk) -> None:
    phone, robot, browser = [await desk.device(platform=platform) for platform in ("IOS", "ANDROID", "WEB")]
    [first, second, third] = await desk.prepare(await desk.push())
    assert isinstance(first, Ready)
    assert isinstance(second, Ready)
    assert isinstance(third, Ready)
    assert isinstance(first.message, ApnsMessage)
    assert (first.message.device_token, first.message.credentials.key) == (phone.token, "a .p8")
    assert first.message.environment is PushEnvironment.PRODUCTION
    assert isinstance(second.message, FcmMessage)
    assert second.message.registration_token == robot.token
    assert isinstance(third.message, WebPushMessage)
    assert (third.message.endpoint, third.message.auth, third.message.subject) == (
        browser.token,
        AUTH,
        "mailto:ops@example.com",
    )
    assert {each.payload for each in (first, second, third)} == {'{"title":"Hello","body":"there"}'}


async def test_the_variant_sticks_and_the_locale_is_the_devices(desk: Desk) -> None:
    await desk.device(locale="de_AT")
    variants = tuple(PushVariant(f"v{index}", 1, PushNotification(title=str(index), body="")) for index in range(4))
    localized = (LocalizedPush("de", PushNotification(title="Hallo", body="Welt")),)
    [delivery] = await desk.push(later=False, variants=variants, localized=localized)
    assert delivery.locale == "de"
    [prepared] = await desk.prepare([delivery])
    assert isinstance(prepared, Ready)
    assert (prepared.variant, prepared.locale) == (delivery.variant, "de")
    assert prepared.payload == '{"title":"Hallo","body":"Welt"}'
    # Whatever was stored wins over what the hash says now.
    other = next(each.name for each in variants if each.name != delivery.variant)
    [prepared] = await desk.prepare([msgspec.structs.replace(delivery, variant=other)])
    assert isinstance(prepared, Ready)
    assert prepared.variant == other


@pytest.mark.parametrize(
    ("kind", "platform", "settings", "secrets", "words"),
    [
        ("APNS", "IOS", {"keyId": "A" * 10}, {"privateKey": "k"}, "It lacks teamId, bundleId."),
        ("FCM", "ANDROID", {}, {}, "It lacks serviceAccount."),
    ],
)
async def test_without_a_provider_that_can_be_used_it_fails_with_a_hint(
    desk: Desk, kind: str, platform: str, settings: Any, secrets: Any, words: str
) -> None:
    await desk.configure(kind, settings, secrets)
    await desk.device(platform=platform)
    [prepared] = await desk.prepare(await desk.push())
    assert isinstance(prepared, Refuse)
    assert prepared.error.code == "NOT_CONFIGURED"
    assert words in prepared.error.message
    assert f"kind {kind}" in str(prepared.error.hint)


async def test_secrets_that_cannot_be_opened_fail_that_platform_only(desk: Desk) -> None:
    await desk.device(platform="IOS")
    await desk.device(platform="ANDROID")
    async with desk.database.connection() as connection:
        await connection.execute(
            "UPDATE providers SET sealed_secrets = '\\x00' WHERE project_id = $1 AND kind = 'APNS'", desk.project_id
        )
    first, second = await desk.prepare(await desk.push())
    assert isinstance(first, Refuse)
    assert first.error.code == "CREDENTIALS_UNREADABLE"
    assert isinstance(second, Ready)


async def test_an_expo_token_fails_with_the_two_ways_out(desk: Desk) -> None:
    await desk.device(token="ExponentPushToken[xxxxxxxxxxxxxxxxxxxxxx]")
    [prepared] = await desk.prepare(await desk.push())
    assert isinstance(prepared, Refuse)
    assert prepared.error.code == "ExpoPushToken"
    assert "getDevicePushTokenAsync" in str(prepared.error.hint)


# ── whose device it is ──


async def test_a_device_that_changed_hands_gets_nothing_that_was_meant_for_another(desk: Desk) -> None:
    device = await desk.device("ada")
    deliveries = await desk.push("ada")
    await desk.device("bob", token=device.token)
    [prepared] = await desk.prepare(deliveries)
    assert isinstance(prepared, Suppress)
    assert prepared.reason is SuppressedReason.NO_TOKENS
    assert prepared.error is not None
    assert prepared.error.code == "DeviceChangedHands"
    # Even when it comes back to whom it was made for.
    await desk.device("ada", token=device.token)
    assert reasons(await desk.prepare(deliveries)) == [SuppressedReason.NO_TOKENS]


async def test_a_device_that_was_signed_off_gets_nothing(desk: Desk) -> None:
    device = await desk.device("ada")
    deliveries = await desk.push("ada")
    async with desk.database.transaction() as connection:
        await unregister_push_token(connection, project_id=desk.project_id, token=device.token)
    assert reasons(await desk.prepare(deliveries)) == [SuppressedReason.NO_TOKENS]
    # Whoever registers it next without a name is not the one before.
    again = await desk.device(None, token=device.token)
    assert (again.user_id, again.owner_generation) == (None, device.owner_generation + 1)


async def test_registering_waits_for_a_push_that_is_being_dispatched(desk: Desk) -> None:
    device = await desk.device("ada")
    deliveries = await desk.push("ada")
    async with desk.preparing(deliveries) as [prepared]:
        assert isinstance(prepared, Ready)
        moving = asyncio.create_task(desk.device("bob", token=device.token))
        assert not (await asyncio.wait([moving], timeout=0.05))[0]
    assert (await moving).user_id == "bob"


async def test_an_erased_person_is_not_written_back(desk: Desk) -> None:
    await desk.device("ada")
    deliveries = await desk.push("ada")
    async with desk.database.connection() as connection:
        await connection.execute("DELETE FROM profiles WHERE project_id = $1", desk.project_id)
    assert reasons(await desk.prepare(deliveries)) == [SuppressedReason.ERASED]


async def test_a_device_of_nobody_known_is_sent_to(desk: Desk) -> None:
    device = await desk.device(None)
    [template] = await desk.push("ada")
    delivery = msgspec.structs.replace(
        template, user_id=None, push_token_id=device.push_token_id, owner_generation=device.owner_generation
    )
    [prepared] = await desk.prepare([delivery])
    assert isinstance(prepared, Ready)


# ── consent ──


@pytest.mark.parametrize(("region", "is_sent"), [("us", True), ("eu", False)])
async def test_nothing_said_means_yes_in_the_us_and_no_in_the_eu(
    module_database_url: str, region: str, is_sent: bool
) -> None:
    async with opened(module_database_url, region=region) as desk:
        await desk.device("ada")
        [prepared] = await desk.prepare(await desk.push("ada"))
        assert isinstance(prepared, Ready) is is_sent
        assert await desk.consent("ada", ConsentState.GRANTED) == "consent.granted"
        [prepared] = await desk.prepare(await desk.push("ada"))
        assert isinstance(prepared, Ready)


async def test_a_revoke_that_committed_first_wins_and_a_later_one_waits(desk: Desk) -> None:
    await desk.device("ada")
    deliveries = await desk.push("ada")
    # Nothing was said before: there is no row to lock, and it waits nevertheless.
    async with desk.preparing(deliveries) as [prepared]:
        assert isinstance(prepared, Ready)
        revoking = asyncio.create_task(desk.consent("ada", ConsentState.REVOKED))
        assert not (await asyncio.wait([revoking], timeout=0.05))[0]
    assert await revoking == "consent.revoked"
    assert reasons(await desk.prepare(await desk.push("ada"))) == [SuppressedReason.CONSENT]
    assert await desk.consent("ada", ConsentState.REVOKED) is None


# ── quiet hours and caps ──


async def test_quiet_hours_are_decided_again_at_dispatch(desk: Desk) -> None:
    await desk.device("ada", timezone="Europe/Berlin")
    await desk.rules(quiet_hours_start_local=22, quiet_hours_end_local=7)
    deliveries = await desk.push("ada")
    night = datetime(2026, 6, 1, 20, 30, tzinfo=UTC)
    [prepared] = await desk.prepare(deliveries, now=night)
    assert prepared == Postpone(until=datetime(2026, 6, 2, 5, tzinfo=UTC))
    [prepared] = await desk.prepare(deliveries, now=datetime(2026, 6, 2, 5, tzinfo=UTC))
    assert isinstance(prepared, Ready)
    await desk.rules(quiet_hours_start_local=22, quiet_hours_end_local=7, defer_in_quiet_hours=False)
    assert reasons(await desk.prepare(await desk.push("ada"), now=night)) == [SuppressedReason.QUIET_HOURS]


async def test_a_message_counts_once_however_many_devices_and_tries_it_takes(desk: Desk) -> None:
    for _ in range(3):
        await desk.device("ada")
    await desk.rules(freq_cap_per_user_per_hour=2)
    first, second, third = [await desk.push("ada") for _ in range(3)]
    assert reasons(await desk.prepare(first)) == [None] * 3
    assert reasons(await desk.prepare(first)) == [None] * 3
    assert reasons(await desk.prepare(second)) == [None] * 3
    assert reasons(await desk.prepare(third)) == [SuppressedReason.FREQUENCY_CAP] * 3
    # All at once, too.
    await desk.device("bob")
    batch = [delivery for _ in range(3) for delivery in await desk.push("bob")]
    assert sorted(map(str, reasons(await desk.prepare(batch)))) == ["FREQUENCY_CAP", "None", "None"]


async def test_windows_roll(desk: Desk) -> None:
    await desk.device("ada")
    await desk.rules(freq_cap_per_user_per_hour=1, freq_cap_per_user_per_day=2)

    async def at(**after: float) -> SuppressedReason | None:
        now = NOW + timedelta(**after)
        [reason] = reasons(await desk.prepare(await desk.push("ada", now=now), now=now))
        return reason

    assert await at() is None
    assert await at(minutes=59, seconds=59) is SuppressedReason.FREQUENCY_CAP
    assert await at(minutes=60) is None
    assert await at(hours=23, minutes=59) is SuppressedReason.FREQUENCY_CAP
    assert await at(hours=24) is None


async def test_what_is_held_back_put_off_or_cancelled_does_not_count(desk: Desk) -> None:
    await desk.device("ada")
    await desk.rules(freq_cap_per_user_per_hour=1)
    # Accepted, and so reserved; then somebody cancels it.
    [cancelled] = await desk.push("ada", later=False)
    [blocked] = await desk.push("ada", later=False)
    assert (cancelled.status, blocked.suppressed_reason) == ("QUEUED", "FREQUENCY_CAP")
    async with desk.database.connection() as connection:
        await connection.execute(
            "UPDATE deliveries SET status = 'CANCELLED', next_attempt_at = NULL WHERE delivery_id = $1",
            cancelled.delivery_id,
        )
    [accepted] = await desk.push("ada", later=False)
    assert accepted.status == "QUEUED"
    # Reserved at acceptance, it is not held back by its own reservation.
    assert reasons(await desk.prepare([accepted])) == [None]


async def test_a_replay_is_a_send_of_its_own(desk: Desk) -> None:
    for _ in range(2):
        await desk.device("ada")
    await desk.rules(freq_cap_per_user_per_hour=1)
    sent = await desk.push("ada")
    assert reasons(await desk.prepare(sent)) == [None] * 2
    # However often, and whatever became of the replay before: what was sent goes on counting.
    for _ in range(2):
        assert reasons(await desk.prepare(await desk.replay(sent))) == [SuppressedReason.FREQUENCY_CAP] * 2
        assert reasons(await desk.prepare(await desk.push("ada"))) == [SuppressedReason.FREQUENCY_CAP] * 2
    later = NOW + timedelta(hours=1)
    again = await desk.replay(sent, now=later)
    # Both devices at one replay count once, and so does another attempt.
    assert reasons(await desk.prepare(again[:1], now=later)) == [None]
    assert reasons(await desk.prepare(again[1:], now=later)) == [None]
    assert reasons(await desk.prepare(again, now=later)) == [None] * 2
    other = await desk.prepare(await desk.push("ada", now=later), now=later)
    assert reasons(other) == [SuppressedReason.FREQUENCY_CAP] * 2


@pytest.mark.parametrize("cap", ["freq_cap_per_user_per_hour", "freq_cap_per_user_per_day"])
@pytest.mark.parametrize("together", [True, False])
async def test_two_replays_are_two_sends(desk: Desk, cap: str, together: bool) -> None:
    for _ in range(2):
        await desk.device("ada")
    first, second = await desk.push("ada")
    assert reasons(await desk.prepare([first, second])) == [None] * 2
    await desk.rules(**{cap: 2})
    replayed = [*await desk.replay([first]), *await desk.replay([second])]
    rounds = [replayed] if together else [[each] for each in replayed]
    found = [reason for each in rounds for reason in reasons(await desk.prepare(each))]
    assert found == [None, SuppressedReason.FREQUENCY_CAP]


@pytest.mark.parametrize("status", ["CANCELLED", "FAILED", "SUPPRESSED"])
async def test_a_replay_of_what_came_to_nothing_is_not_held_back_by_it(desk: Desk, status: str) -> None:
    await desk.device("ada")
    await desk.rules(freq_cap_per_user_per_hour=1)
    [accepted] = await desk.push("ada", later=False)
    async with desk.database.connection() as connection:
        await connection.execute(
            "UPDATE deliveries SET status = $2, next_attempt_at = NULL WHERE delivery_id = $1",
            accepted.delivery_id,
            status,
        )
    replayed = await desk.replay([accepted])
    assert reasons(await desk.prepare(replayed)) == [None]
    assert reasons(await desk.prepare(await desk.push("ada"))) == [SuppressedReason.FREQUENCY_CAP]


async def test_sends_count_that_were_made_before_there_were_caps(desk: Desk) -> None:
    await desk.device("ada")
    assert reasons(await desk.prepare(await desk.push("ada"))) == [None]
    await desk.rules(freq_cap_per_user_per_day=1)
    assert reasons(await desk.prepare(await desk.push("ada"))) == [SuppressedReason.FREQUENCY_CAP]


async def test_tests_neither_count_nor_are_held_back(desk: Desk) -> None:
    await desk.device("ada")
    await desk.rules(freq_cap_per_user_per_day=1)
    for _ in range(2):
        assert reasons(await desk.prepare(await desk.push("ada", is_test=True))) == [None]
    assert reasons(await desk.prepare(await desk.push("ada"))) == [None]
    assert reasons(await desk.prepare(await desk.push("ada", is_test=True))) == [None]


async def test_two_workers_cannot_overshoot_a_cap(module_database_url: str) -> None:
    async with opened(module_database_url, max_size=6) as desk:
        people = ["ada", "bob", "cyd"]
        for user_id in people:
            await desk.device(user_id)
            await desk.device(user_id, platform="ANDROID")
        await desk.rules(freq_cap_per_user_per_hour=3)
        messages = [await desk.push(*people) for _ in range(10)]
        prepared = await asyncio.gather(*(desk.prepare(deliveries) for deliveries in messages))
        for user_id in people:
            sent = [
                [
                    isinstance(answer, Ready)
                    for delivery, answer in zip(deliveries, answers, strict=True)
                    if delivery.user_id == user_id
                ]
                for deliveries, answers in zip(messages, prepared, strict=True)
            ]
            # Three messages, each to both devices.
            assert sorted(sent) == [[False, False]] * 7 + [[True, True]] * 3


async def test_accepting_and_dispatching_share_the_caps(module_database_url: str) -> None:
    async with opened(module_database_url, max_size=6) as desk:
        await desk.device("ada")
        await desk.rules(freq_cap_per_user_per_day=4)
        waiting = [await desk.push("ada") for _ in range(6)]
        prepared, accepted = await asyncio.gather(
            asyncio.gather(*(desk.prepare(deliveries) for deliveries in waiting)),
            asyncio.gather(*(desk.push("ada", later=False) for _ in range(6))),
        )
        sent = sum(isinstance(answer, Ready) for answers in prepared for answer in answers)
        assert sent + sum(each.status == "QUEUED" for deliveries in accepted for each in deliveries) == 4


# ── settling ──


def rejected(code: str, *, dead_since: datetime | None = None, is_dead: bool = True) -> Rejected:
    error = DeliveryError(code, "No.", permanent=True)
    return PushRejected(error=error, address_is_dead=is_dead, dead_since=dead_since)


async def ready(desk: Desk, *user_ids: str, **content: Any) -> list[tuple[DeliveryRecord, Prepared]]:
    deliveries = await desk.push(*user_ids, **content)
    return list(zip(deliveries, await desk.prepare(deliveries), strict=True))


async def test_a_dead_token_becomes_inactive_once_with_the_services_word(desk: Desk) -> None:
    device = await desk.device("ada")
    [first], [second] = [await ready(desk, "ada") for _ in range(2)]
    assert await desk.settle((*first, rejected("Unregistered")), (*second, rejected("Unregistered"))) == [
        "push.token_invalidated"
    ]
    found = await desk.token(device)
    assert (found.active, found.invalidated_reason) == (False, "Unregistered")
    assert await desk.settle((*second, rejected("BadDeviceToken"))) == []
    assert (await desk.token(device)).invalidated_reason == "Unregistered"
    assert [each.suppressed_reason for each in await desk.push("ada")] == ["NO_TOKENS"]
    # Registering brings it back.
    again = await desk.device("ada", token=device.token)
    assert (again.active, again.invalidated_reason, again.push_token_id) == (True, None, device.push_token_id)


async def test_a_token_that_a_replay_finds_dead_again_has_an_event_again(desk: Desk) -> None:
    device = await desk.device("ada")
    [(delivery, prepared)] = await ready(desk, "ada")
    keys = set()
    for attempt in (1, 2):
        claimed = msgspec.structs.replace(delivery, attempt_count=attempt)
        [event] = await desk.settled((claimed, prepared, rejected("Unregistered")))
        assert event.event_type == "push.token_invalidated"
        keys.add(event.key)
        await desk.device("ada", token=device.token)
    assert len(keys) == 2


async def test_a_refused_message_leaves_its_token_alone(desk: Desk) -> None:
    device = await desk.device("ada")
    [sent] = await ready(desk, "ada")
    assert await desk.settle((*sent, rejected("PayloadTooLarge", is_dead=False))) == []
    assert (await desk.token(device)).active


async def test_a_token_that_was_registered_again_since_it_died_lives(desk: Desk) -> None:
    device = await desk.device("ada")
    [sent] = await ready(desk, "ada")
    assert await desk.settle((*sent, rejected("Unregistered", dead_since=NOW - timedelta(seconds=1)))) == []
    assert (await desk.token(device)).active
    assert await desk.settle((*sent, rejected("Unregistered", dead_since=NOW))) == ["push.token_invalidated"]


async def test_what_worked_is_kept(desk: Desk) -> None:
    device = await desk.device("ada")
    [sent] = await ready(desk, "ada")
    assert await desk.settle((*sent, PushAccepted(environment=PushEnvironment.SANDBOX))) == []
    found = await desk.token(device)
    assert (found.environment, found.last_used_at) == ("SANDBOX", NOW)


async def test_the_account_shows_what_it_was_refused_for_until_something_is_taken(desk: Desk) -> None:
    await desk.device("ada")
    await desk.device("ada", platform="ANDROID")
    to_apple, to_google = await ready(desk, "ada")

    async def errors() -> dict[str, str | None]:
        async with desk.database.connection() as connection:
            return dict(
                await connection.fetch("SELECT kind, last_error FROM providers WHERE project_id = $1", desk.project_id)
            )

    refused = Deferred(error=DeliveryError("InvalidProviderToken", "Apple says no.", permanent=False), is_account=True)
    busy = Deferred(error=DeliveryError("UNAVAILABLE", "Later.", permanent=False))
    await desk.settle((*to_apple, refused), (*to_google, busy))
    assert await errors() == {"APNS": "InvalidProviderToken: Apple says no.", "FCM": None}
    await desk.settle((*to_google, Accepted()))
    assert (await errors())["APNS"] is not None
    await desk.settle((*to_apple, Accepted()))
    assert await errors() == {"APNS": None, "FCM": None}


# ── Live Activities ──


def ride(action: str, activity_id: str = "ride-1") -> LiveActivity:
    return LiveActivity(
        action=action, attributes_type="Ride", activity_id=activity_id, attributes={}, content_state={"minutes": 5}
    )


async def register_ride(desk: Desk, device: PushTokenRecord, token: str, activity_id: str | None) -> None:
    async with desk.database.transaction() as connection:
        key = ActivityKey(device.push_token_id, "Ride", activity_id)
        await register_live_activity(
            connection, project_id=desk.project_id, live_activity_id=uuid7(), key=key, token=token, now=NOW
        )


async def states(desk: Desk) -> dict[str | None, str]:
    async with desk.database.connection() as connection:
        return dict(
            await connection.fetch(
                "SELECT activity_id, state FROM live_activities WHERE project_id = $1", desk.project_id
            )
        )


async def test_an_activity_from_its_start_to_its_end(desk: Desk) -> None:
    device = await desk.device("ada")
    await desk.device("ada", platform="ANDROID")
    assert reasons(await desk.prepare(await desk.push("ada", live_activity=ride("START")))) == [
        SuppressedReason.NO_TOKENS
    ]
    await register_ride(desk, device, "aa" * 40, None)
    [start] = await ready(desk, "ada", live_activity=ride("START"))
    assert isinstance(start[1], Ready)
    assert isinstance(start[1].message, ApnsMessage)
    assert (start[1].message.device_token, start[1].message.notification) == ("aa" * 40, None)
    assert await desk.settle((*start, PushAccepted(environment=PushEnvironment.SANDBOX))) == [
        "push.live_activity_started"
    ]
    assert await states(desk) == {None: "STARTABLE", "ride-1": "STARTING"}

    # An update waits for the app to give the activity's own token.
    deliveries = await desk.push("ada", live_activity=ride("UPDATE"))
    assert await desk.prepare(deliveries) == [Postpone(until=NOW + timedelta(seconds=5))]
    too_late = NOW + timedelta(minutes=2)
    assert reasons(await desk.prepare(deliveries, now=too_late)) == [SuppressedReason.NO_TOKENS]
    await register_ride(desk, device, "bb" * 40, "ride-1")
    [update] = await ready(desk, "ada", live_activity=ride("UPDATE"))
    assert isinstance(update[1], Ready)
    assert isinstance(update[1].message, ApnsMessage)
    assert update[1].message.device_token == "bb" * 40
    assert await desk.settle((*update, PushAccepted())) == ["push.live_activity_updated"]

    [end] = await ready(desk, "ada", live_activity=ride("END"))
    assert await desk.settle((*end, PushAccepted())) == ["push.live_activity_ended"]
    assert await states(desk) == {None: "STARTABLE", "ride-1": "ENDED"}
    assert reasons(await desk.prepare(await desk.push("ada", live_activity=ride("UPDATE")))) == [
        SuppressedReason.NO_TOKENS
    ]


async def test_a_dead_activity_leaves_its_device_alone(desk: Desk) -> None:
    device = await desk.device("ada")
    await register_ride(desk, device, "bb" * 40, "ride-1")
    [update] = await ready(desk, "ada", live_activity=ride("UPDATE"))
    assert await desk.settle((*update, rejected("ExpiredToken"))) == ["push.live_activity_invalidated"]
    assert await states(desk) == {"ride-1": "INVALIDATED"}
    assert (await desk.token(device)).active
    # One that was registered anew since then is another one.
    await register_ride(desk, device, "cc" * 40, "ride-1")
    assert await desk.settle((*update, rejected("ExpiredToken"))) == []
    assert await states(desk) == {"ride-1": "ACTIVE"}


# ── the key pair for browsers ──


async def test_the_deliveries_of_a_step_name_their_run_and_its_event(desk: Desk) -> None:
    await desk.device()
    workflow_id, run_id = uuid7(), uuid7()
    request = PushRequest(
        project_id=desk.project_id,
        batch_id=None,
        content=PushContent(message_id=uuid7(), push=HELLO),
        now=NOW,
        workflow_id=workflow_id,
        workflow_run_id=run_id,
        workflow_step_number=3,
        event_seq=7,
        event_type="order.placed",
        depth=2,
    )
    async with desk.database.transaction() as connection:
        made = await plan_for_people(connection, request, user_ids=("ada", "bob"))
    of_run = [
        (each.workflow_id, each.workflow_run_id, each.workflow_step_number, each.event_seq, each.event_type, each.depth)
        for each in made
    ]
    assert of_run == [(workflow_id, run_id, 3, 7, "order.placed", 2)] * 2
    assert [each.status for each in made] == ["QUEUED", "SUPPRESSED"]


async def test_the_key_pair_for_browsers_is_made_once_however_many_need_it_first(module_database_url: str) -> None:
    async with opened(module_database_url, max_size=6) as desk:

        async def read() -> str:
            async with desk.database.transaction() as connection:
                account = await read_vapid(connection, VAULT, project_id=desk.project_id, now=NOW)
                return str(account.secrets["publicKey"])

        keys = await asyncio.gather(*(read() for _ in range(6)))
        assert len(set(keys)) == 1
        await desk.device("ada", platform="WEB")
        [prepared] = await desk.prepare(await desk.push("ada"))
        assert isinstance(prepared, Ready)
        assert isinstance(prepared.message, WebPushMessage)
        assert prepared.message.vapid.public_key == keys[0]
