"""Revoked keys: told within a second, also when Redis is away, and nothing is missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from uuid import UUID, uuid4

import msgspec

from db.heads import advance_epoch
from db.records import SYSTEM_PROJECT
from engine.live.revocations import Revocations
from launch.embedded import EmbeddedValkey
from tests.integration.log_support import new_event
from tests.integration.stream_support import Gateway, open_gateway, until


@asynccontextmanager
async def open_revocations(gateway: Gateway) -> AsyncIterator[Revocations]:
    revocations = Revocations(gateway.hub, gateway.database)
    await revocations.start()
    try:
        yield revocations
    finally:
        revocations.stop()


async def revoke(gateway: Gateway, api_key_id: UUID, *, announce: bool = True) -> None:
    properties = msgspec.json.encode({"apiKeyId": str(api_key_id)}).decode()
    event = new_event(str(uuid4()), event_type="api_key.revoked", module="api_key", properties=properties)
    await gateway.append(SYSTEM_PROJECT, event, announce=announce)


async def test_a_revocation_is_told_to_its_watchers_once_and_within_a_second(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway, open_revocations(gateway) as revocations:
        mine, other = uuid4(), uuid4()
        told: list[str] = []
        anything: list[UUID] = []
        revocations.watch(mine, lambda: told.append("first"))
        revocations.watch(mine, lambda: told.append("second"))
        forget = revocations.watch(mine, lambda: told.append("forgotten"))
        revocations.watch(other, lambda: told.append("other"))
        revocations.on_revoked_any(anything.append)
        forget()
        forget()
        began = monotonic()

        await revoke(gateway, mine)
        await until(lambda: revocations.revoked(mine))
        assert monotonic() - began < 1.0
        await revoke(gateway, mine)
        await asyncio.sleep(0.1)

        assert told == ["first", "second"]
        assert anything == [mine]
        assert not revocations.revoked(other)


async def test_who_watches_a_revoked_key_is_told_at_once(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway, open_revocations(gateway) as revocations:
        api_key_id = uuid4()
        await revoke(gateway, api_key_id)
        await until(lambda: revocations.revoked(api_key_id))
        told: list[str] = []

        revocations.watch(api_key_id, lambda: told.append("late"))

        assert told == ["late"]


async def test_revocations_arrive_while_redis_is_away(database_url: str, own_redis: EmbeddedValkey) -> None:
    async with open_gateway(database_url, own_redis.url) as gateway, open_revocations(gateway) as revocations:
        api_key_id = uuid4()
        own_redis.stop()
        await until(lambda: not gateway.broadcast.connected)
        began = monotonic()

        await revoke(gateway, api_key_id)
        await until(lambda: revocations.revoked(api_key_id))

        assert monotonic() - began < 1.0


async def test_a_gateway_that_starts_without_redis_hears_of_revocations(
    database_url: str, own_redis: EmbeddedValkey
) -> None:
    own_redis.stop()
    async with open_gateway(database_url, own_redis.url) as gateway, open_revocations(gateway) as revocations:
        api_key_id = uuid4()
        await revoke(gateway, api_key_id)
        await until(lambda: revocations.revoked(api_key_id), within=2)


async def test_a_callback_that_fails_does_not_keep_the_others_from_being_told(
    database_url: str, redis_url: str
) -> None:
    async with open_gateway(database_url, redis_url) as gateway, open_revocations(gateway) as revocations:
        api_key_id = uuid4()
        told: list[str] = []

        def fail() -> None:
            raise RuntimeError

        revocations.watch(api_key_id, fail)
        revocations.watch(api_key_id, lambda: told.append("told"))

        await revoke(gateway, api_key_id)

        await until(lambda: bool(told))


async def test_a_restored_log_is_read_again_from_its_beginning(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway:
        before = uuid4()
        await revoke(gateway, before)
        async with open_revocations(gateway) as revocations:
            assert not revocations.revoked(before)
            async with gateway.database.connection() as connection:
                await advance_epoch(connection, project_id=SYSTEM_PROJECT)
            after = uuid4()
            await revoke(gateway, after)

            await until(lambda: revocations.revoked(after) and revocations.revoked(before))


async def test_other_events_of_the_system_project_are_no_revocations(database_url: str, redis_url: str) -> None:
    async with open_gateway(database_url, redis_url) as gateway, open_revocations(gateway) as revocations:
        api_key_id = uuid4()
        await gateway.append(SYSTEM_PROJECT, new_event("x", properties='{"apiKeyId":"' + str(api_key_id) + '"}'))
        await gateway.append(SYSTEM_PROJECT, new_event("y", event_type="api_key.revoked", properties='{"apiKeyId":1}'))
        other = uuid4()
        await revoke(gateway, other)

        await until(lambda: revocations.revoked(other))
        assert not revocations.revoked(api_key_id)
