"""Sending deliveries again: one, and many in chunks that survive their worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from db.database import Database
from db.deliveries import read_deliveries
from db.delivery_filters import DeliveryFilter
from db.replays import ReplaySet, find_replaying_projects, read_replay_set
from engine.dispatch.ledger import record
from engine.dispatch.replaying import FINISHED, MAX_UNFINISHED_REPLAYS, BulkReplay, Replays, continue_replays
from engine.dispatch.status import PENDING, may_follow, transition_of
from engine.dispatch.values import DeliveryStatus
from engine.node_ids import parse_node_id
from engine.work import Work, WorkKind
from tests.integration.delivery_support import fill_deliveries, make_delivery, node_id, set_columns
from tests.integration.graphql_support import Gateway, Tenant

REPLAY = """mutation ($id: ID!) {
  replayDelivery(id: $id) {
    delivery { id status batchId nextAttemptAt error { code } suppressedReason attemptCount finishedAt sentAt }
    userErrors { code path message }
  }
}"""
REPLAY_ALL = """mutation ($filter: DeliveryFilter!) {
  replayDeliveries(filter: $filter) {
    batchId replayed deliveries { id status batchId } userErrors { code path message }
  }
}"""


async def fetch(shop: Tenant, statement: str, *arguments: Any) -> list[Any]:
    async with shop.gateway.services.database.connection() as connection:
        rows: list[Any] = await connection.fetch(statement, shop.project_id, *arguments)
    return rows


async def statuses(shop: Tenant) -> dict[str, int]:
    rows = await fetch(shop, "SELECT status, count(*) FROM deliveries WHERE project_id = $1 GROUP BY status")
    return {row["status"]: row["count"] for row in rows}


def replays(shop: Tenant, *, chunk: int) -> Replays:
    services = shop.gateway.services
    return Replays(services.database, services.clock, services.announce, services.wake, chunk=chunk)


async def begin(shop: Tenant, *, chunk: int, delivery_filter: DeliveryFilter) -> BulkReplay:
    """As `replayDeliveries` does, with another size of chunk."""
    begun = await replays(shop, chunk=chunk).begin(
        project_id=shop.project_id,
        delivery_filter=delivery_filter,
        found=await replay_set(shop, delivery_filter),
        audit=shop.gateway.audit,
    )
    assert isinstance(begun, BulkReplay)
    return begun


async def replay_set(shop: Tenant, delivery_filter: DeliveryFilter) -> ReplaySet:
    async with shop.gateway.services.database.connection() as connection:
        return await read_replay_set(connection, project_id=shop.project_id, delivery_filter=delivery_filter)


class Died(Exception):
    """The process is gone."""


class DyingDatabase:
    """Fails its transactions as it is told: `before` or `after` COMMIT, None for not at all. Once each."""

    def __init__(self, database: Database, error: type[Exception] = Died, *deaths: str | None) -> None:
        self._database = database
        self._error = error
        self.deaths: list[str | None] = list(deaths)
        self.died = 0

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        death = self.deaths.pop(0) if self.deaths else None
        async with self._database.transaction() as connection:
            yield connection
            if death == "before":
                self._die()
        if death == "after":
            self._die()

    def _die(self) -> None:
        self.died += 1
        raise self._error


def replays_that_die(shop: Tenant, error: type[Exception], deaths: Sequence[str | None], *, chunk: int) -> Replays:
    services = shop.gateway.services
    dying = DyingDatabase(services.database, error, *deaths)
    return Replays(dying, services.clock, services.announce, services.wake, chunk=chunk)  # type: ignore[arg-type]


async def finish(shop: Tenant, *, chunk: int) -> int:
    """Carry on until there is nothing left; how many chunks that took."""
    chunks = 0
    while await replays(shop, chunk=chunk).go_on(project_id=shop.project_id):
        chunks += 1
    return chunks


async def transitions_of(shop: Tenant) -> dict[UUID, list[tuple[str | None, str]]]:
    rows = await fetch(
        shop, "SELECT delivery_id, from_status, to_status FROM delivery_transitions WHERE project_id = $1 ORDER BY seq"
    )
    found: dict[UUID, list[tuple[str | None, str]]] = {}
    for row in rows:
        found.setdefault(row["delivery_id"], []).append((row["from_status"], row["to_status"]))
    return found


def test_whatever_is_finished_may_be_queued_again() -> None:
    assert {status for status in DeliveryStatus if may_follow(status, DeliveryStatus.QUEUED)} - {"SENDING"} == FINISHED


@pytest.mark.parametrize("status", sorted(FINISHED))
async def test_a_finished_delivery_is_queued_again(shop: Tenant, gateway: Gateway, status: str) -> None:
    before = datetime.now(UTC)
    delivery_id = await make_delivery(
        shop,
        status=status,
        user_id="ada",
        variant="B",
        depth=3,
        attempt_count=4,
        error_code="E1",
        error_message="no",
        error_permanent=True,
        error_hint="hm",
        suppressed_reason="CONSENT" if status == "SUPPRESSED" else None,
        finished_at=before,
        sent_at=before,
        delivered_at=before,
        batch_id=uuid4(),
    )
    gateway.announced.clear()
    payload = (await shop.data(REPLAY, id=node_id(delivery_id)))["replayDelivery"]

    assert payload["userErrors"] == []
    shown = payload["delivery"]
    batch = parse_node_id(shown.pop("batchId"))
    assert shown.pop("nextAttemptAt") <= gateway.services.clock.now().isoformat()
    assert shown == {
        "id": node_id(delivery_id),
        "status": "QUEUED",
        "error": None,
        "suppressedReason": None,
        "attemptCount": 4,
        "finishedAt": None,
        "sentAt": None,
    }
    [row] = await fetch(shop, "SELECT * FROM deliveries WHERE project_id = $1")
    assert (row["schedule_offset"], row["variant"], row["depth"], row["user_id"]) == (4, "B", 3, "ada")
    assert row["next_attempt_at"] == row["scheduled_for"]
    assert (row["error_message"], row["error_permanent"], row["error_hint"]) == (None, None, None)
    assert (row["lease_token"], row["delivered_at"]) == (None, None)
    assert batch is not None
    assert row["batch_id"] == batch.uuid
    [batch_row] = await fetch(shop, "SELECT kind, progress FROM send_batches WHERE project_id = $1")
    assert (batch_row["kind"], batch_row["progress"]) == ("REPLAY", None)
    assert (await transitions_of(shop))[delivery_id][-1] == (status, "QUEUED")
    assert len(gateway.announced) == 1
    assert gateway.woken == [Work(WorkKind.DELIVERIES, shop.project_id)]


@pytest.mark.parametrize("status", sorted(PENDING | {DeliveryStatus.SENDING}))
async def test_what_is_still_on_its_way_is_not_replayed(shop: Tenant, gateway: Gateway, status: str) -> None:
    delivery_id = await make_delivery(shop, status=status)
    gateway.announced.clear()
    payload = (await shop.data(REPLAY, id=node_id(delivery_id)))["replayDelivery"]
    assert payload["delivery"] is None
    assert [(error["code"], error["path"]) for error in payload["userErrors"]] == [("STATE", ["id"])]
    assert f"This delivery is {status}:" in payload["userErrors"][0]["message"]
    assert await statuses(shop) == {status: 1}
    assert await fetch(shop, "SELECT FROM send_batches WHERE project_id = $1") == []
    assert (gateway.announced, gateway.woken) == ([], [])


async def test_nothing_is_sent_again_to_who_was_erased(shop: Tenant) -> None:
    delivery_id = await make_delivery(shop, status="SUPPRESSED", suppressed_reason="ERASED")
    payload = (await shop.data(REPLAY, id=node_id(delivery_id)))["replayDelivery"]
    assert [error["code"] for error in payload["userErrors"]] == ["STATE"]
    replayed = (await shop.data(REPLAY_ALL, filter={"statuses": ["SUPPRESSED"]}))["replayDeliveries"]
    assert (replayed["replayed"], replayed["batchId"], replayed["userErrors"]) == (0, None, [])
    assert await statuses(shop) == {"SUPPRESSED": 1}


async def test_a_delivery_that_is_not_there_is_not_replayed(shop: Tenant) -> None:
    for unknown in (node_id(uuid4()), "evt_x", "", "\0"):
        payload = (await shop.data(REPLAY, id=unknown))["replayDelivery"]
        assert [(error["code"], error["path"]) for error in payload["userErrors"]] == [("NOT_FOUND", ["id"])]


async def test_without_statuses_what_failed_is_replayed(shop: Tenant, gateway: Gateway) -> None:
    made = {status: await make_delivery(shop, status=status, user_id="ada") for status in DeliveryStatus}
    other = await make_delivery(shop, status="FAILED", user_id="bob")
    payload = (await shop.data(REPLAY_ALL, filter={"userId": "ada"}))["replayDeliveries"]
    failed = sorted(
        made[status] for status in (DeliveryStatus.FAILED, DeliveryStatus.DEAD_LETTERED, DeliveryStatus.UNCERTAIN)
    )
    assert payload["userErrors"] == []
    assert payload["replayed"] == 3
    assert payload["deliveries"] == [
        {"id": node_id(each), "status": "QUEUED", "batchId": payload["batchId"]} for each in failed
    ]
    changed = {
        key for key, steps in (await transitions_of(shop)).items() if steps[-1][1] == "QUEUED" and len(steps) > 1
    }
    assert changed == set(failed)
    assert other not in changed
    assert await finish(shop, chunk=10) == 0
    assert gateway.woken == [Work(WorkKind.DELIVERIES, shop.project_id)]


async def test_a_replay_needs_a_filter_that_can_be_of_something_finished(shop: Tenant, gateway: Gateway) -> None:
    await make_delivery(shop, status="FAILED")
    for delivery_filter, path in (
        ({}, ["filter"]),
        ({"statuses": ["FAILED", "QUEUED"]}, ["filter", "statuses"]),
        ({"ids": ["evt_x"]}, ["filter", "ids"]),
        ({"batchId": "dlv_" + "0" * 32}, ["filter", "batchId"]),
        ({"endpointId": "x"}, ["filter", "endpointId"]),
        ({"userId": "\0"}, ["filter", "userId"]),
        ({"eventTypes": ["x" * 201]}, ["filter", "eventTypes"]),
        ({"errorCodes": ["x"] * 2 + [f"x{number}" for number in range(200)]}, ["filter", "errorCodes"]),
        ({"since": "0001-01-01T00:00:00Z"}, ["filter", "since"]),
    ):
        payload = (await shop.data(REPLAY_ALL, filter=delivery_filter))["replayDeliveries"]
        assert (payload["batchId"], payload["replayed"], payload["deliveries"]) == (None, 0, [])
        assert [(error["code"], error["path"]) for error in payload["userErrors"]] == [("INVALID", path)]
    nothing = (await shop.data(REPLAY_ALL, filter={"channels": []}))["replayDeliveries"]
    assert nothing == {"batchId": None, "replayed": 0, "deliveries": [], "userErrors": []}
    assert await statuses(shop) == {"FAILED": 1}
    assert gateway.woken == []


async def test_a_large_replay_goes_on_in_chunks_and_shows_its_first_100(shop: Tenant, gateway: Gateway) -> None:
    await fill_deliveries(shop, 2_500)
    payload = (await shop.data(REPLAY_ALL, filter={"channels": ["WEBHOOK"]}))["replayDeliveries"]
    assert payload["replayed"] == 2_500
    assert len(payload["deliveries"]) == 100
    assert await statuses(shop) == {"FAILED": 1_500, "QUEUED": 1_000}
    services = gateway.services
    async with services.database.connection() as connection:
        assert await find_replaying_projects(connection) == [shop.project_id]
    told = (services.database, services.clock, services.announce, services.wake, shop.project_id)
    assert [await continue_replays(*told) for _ in range(3)] == [True, True, False]
    assert await statuses(shop) == {"QUEUED": 2_500}
    count = (
        await shop.data(
            "query ($f: DeliveryFilter) { deliveries(filter: $f) { totalCount } }", f={"batchId": payload["batchId"]}
        )
    )["deliveries"]["totalCount"]
    assert count == 2_500
    async with services.database.connection() as connection:
        assert await find_replaying_projects(connection) == []
    kinds = [WorkKind.DELIVERIES, WorkKind.REPLAYS, WorkKind.DELIVERIES, WorkKind.DELIVERIES]
    assert gateway.woken == [Work(kind, shop.project_id) for kind in kinds]


async def test_a_replay_of_20_000_survives_workers_that_die_and_queues_each_delivery_once(shop: Tenant) -> None:
    """Some die before COMMIT, some after it, before they can tell anyone."""
    await fill_deliveries(shop, 20_000)
    begun = await begin(shop, chunk=1_500, delivery_filter=DeliveryFilter(statuses=("FAILED",)))
    assert begun.replayed == 20_000
    deaths = ["before", None, "after", None, "before", "before", "after", "after"]
    dying = replays_that_die(shop, Died, deaths, chunk=1_500)
    died = 0
    while (await statuses(shop)).get("FAILED"):
        try:
            await dying.go_on(project_id=shop.project_id)
        except Died:
            died += 1
    assert died == 6
    await finish(shop, chunk=1_500)
    assert await statuses(shop) == {"QUEUED": 20_000}
    steps = await transitions_of(shop)
    assert len(steps) == 20_000
    assert all(each == [("FAILED", "QUEUED")] for each in steps.values())
    [batch] = await fetch(shop, "SELECT progress, queued FROM send_batches WHERE project_id = $1")
    assert (batch["progress"], batch["queued"]) == (None, 20_000)


async def test_two_workers_never_do_one_chunk_twice(shop: Tenant) -> None:
    await fill_deliveries(shop, 3_000)
    await begin(shop, chunk=200, delivery_filter=DeliveryFilter(statuses=("FAILED",)))
    while (await statuses(shop)).get("FAILED"):
        await asyncio.gather(*(replays(shop, chunk=200).go_on(project_id=shop.project_id) for _ in range(3)))
    await finish(shop, chunk=200)
    steps = await transitions_of(shop)
    assert len(steps) == 3_000
    assert all(each == [("FAILED", "QUEUED")] for each in steps.values())


async def test_the_set_is_what_matched_at_acceptance(shop: Tenant, gateway: Gateway) -> None:
    """What fails later is not in it, and what was replayed by somebody else and failed again is left alone."""
    project_id = shop.project_id
    made = sorted([await make_delivery(shop, status="FAILED") for _ in range(6)])
    begun = await begin(shop, chunk=2, delivery_filter=DeliveryFilter(statuses=("FAILED",)))
    assert begun.replayed == 6
    later = await make_delivery(shop, status="FAILED")
    elsewhere = made[4]
    await shop.data(REPLAY, id=node_id(elsewhere))
    async with gateway.services.database.transaction() as connection:
        [delivery] = await read_deliveries(connection, project_id=project_id, delivery_ids=[elsewhere])
        await set_columns(connection, project_id, elsewhere, status="FAILED", next_attempt_at=None)
        step = transition_of(delivery, before="SENDING", after="FAILED")
        await record(connection, project_id=project_id, transitions=[step], events=[], now=gateway.services.clock.now())

    await finish(shop, chunk=2)
    rows = await fetch(shop, "SELECT delivery_id, status, batch_id FROM deliveries WHERE project_id = $1")
    queued = {row["delivery_id"] for row in rows if row["batch_id"] == begun.batch_id and row["status"] == "QUEUED"}
    assert queued == set(made) - {elsewhere}
    assert {row["delivery_id"] for row in rows if row["status"] == "FAILED"} == {elsewhere, later}


async def test_a_project_has_a_bounded_number_of_unfinished_replays(shop: Tenant) -> None:
    await fill_deliveries(shop, 30)
    for _ in range(MAX_UNFINISHED_REPLAYS):
        await begin(shop, chunk=1, delivery_filter=DeliveryFilter(statuses=("FAILED",)))
    payload = (await shop.data(REPLAY_ALL, filter={"statuses": ["FAILED"]}))["replayDeliveries"]
    assert [(error["code"], error["path"]) for error in payload["userErrors"]] == [("LIMIT_EXCEEDED", ["filter"])]
    assert await statuses(shop) == {"FAILED": 30 - MAX_UNFINISHED_REPLAYS, "QUEUED": MAX_UNFINISHED_REPLAYS}
    await finish(shop, chunk=7)
    assert await statuses(shop) == {"QUEUED": 30}


async def test_an_acceptance_whose_answer_was_lost_is_one_replay(shop: Tenant) -> None:
    await fill_deliveries(shop, 5)
    wanted = DeliveryFilter(statuses=("FAILED",))
    begun = await replays_that_die(shop, ConnectionResetError, ["after", None], chunk=2).begin(
        project_id=shop.project_id,
        delivery_filter=wanted,
        found=await replay_set(shop, wanted),
        audit=shop.gateway.audit,
    )
    assert isinstance(begun, BulkReplay)
    assert (begun.replayed, len(begun.deliveries)) == (5, 2)
    [batch] = await fetch(shop, "SELECT batch_id FROM send_batches WHERE project_id = $1")
    assert batch["batch_id"] == begun.batch_id
    await finish(shop, chunk=2)
    assert all(len(steps) == 1 for steps in (await transitions_of(shop)).values())


async def test_the_last_replay_that_is_allowed_is_accepted_although_its_answer_was_lost(shop: Tenant) -> None:
    await fill_deliveries(shop, 30)
    wanted = DeliveryFilter(statuses=("FAILED",))
    for _ in range(MAX_UNFINISHED_REPLAYS - 1):
        await begin(shop, chunk=1, delivery_filter=wanted)
    begun = await replays_that_die(shop, ConnectionResetError, ["after", None], chunk=1).begin(
        project_id=shop.project_id,
        delivery_filter=wanted,
        found=await replay_set(shop, wanted),
        audit=shop.gateway.audit,
    )
    assert isinstance(begun, BulkReplay)


async def test_a_replay_whose_answer_was_lost_is_one_replay(shop: Tenant) -> None:
    delivery_id = await make_delivery(shop, status="FAILED")
    replays_one = replays_that_die(shop, ConnectionResetError, ["after", None], chunk=2)
    await replays_one.replay_one(project_id=shop.project_id, delivery_id=delivery_id, audit=shop.gateway.audit)
    assert (await transitions_of(shop))[delivery_id] == [(None, "FAILED"), ("FAILED", "QUEUED")]
