"""The secret that the webhooks of a project's steps are signed with: made once, rotated, checked by a real receiver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import msgspec
import pytest
from uuid_utils.compat import uuid7

from db.database import Database
from engine.audit import SYSTEM, Audit
from engine.channels.http import HttpClient
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.ledger import create_deliveries
from engine.dispatch.values import Channel, WebhookContent, host_key
from engine.egress import Egress
from engine.errors import UserError
from engine.identity import Role
from engine.vault import CannotOpen, Vault
from engine.webhooks.work import WebhookWork
from engine.workflows.signing import active_step_secrets, rotate_step_secret
from tests.integration.dispatch_support import START, Desk, new_delivery, open_desk
from tests.integration.graphql_support import Tenant
from tests.integration.log_support import make_project, open_database
from tests.peers.receiver import WebhookReceiver

VAULT = Vault(b"a secret of tests, long enough for it")
ROTATE = """mutation ($grace: Int) {
  rotateWorkflowSecret(graceSeconds: $grace) { secret userErrors { code path } } }"""
DAY = 86_400


async def active(database: Database, project_id: UUID, after: float = 0, vault: Vault = VAULT) -> tuple[str, ...]:
    """The secrets that sign so many seconds after the start."""
    async with database.transaction() as connection:
        return await active_step_secrets(connection, vault, project_id=project_id, now=START + timedelta(seconds=after))


async def rotate(database: Database, project_id: UUID, grace: int = DAY, after: float = 0) -> str:
    now = START + timedelta(seconds=after)
    rotated = await rotate_step_secret(
        database, VAULT, project_id=project_id, grace_seconds=grace, audit=Audit(SYSTEM, now)
    )
    assert rotated.secret is not None, rotated
    return rotated.secret


@pytest.fixture
async def database(module_database_url: str) -> AsyncIterator[Database]:
    async with open_database(module_database_url) as opened:
        yield opened


@pytest.fixture
async def project_id(database: Database) -> UUID:
    return await make_project(database)


async def test_it_is_made_once_however_many_need_it_first(database: Database, project_id: UUID) -> None:
    made = await asyncio.gather(*(active(database, project_id) for _ in range(4)))
    assert len(set(made)) == 1
    assert await active(database, project_id) == made[0]
    assert await active(database, await make_project(database)) != made[0]


async def test_the_one_before_signs_until_its_grace_is_over(database: Database, project_id: UUID) -> None:
    (old,) = await active(database, project_id)
    new = await rotate(database, project_id)
    assert await active(database, project_id, DAY - 1) == (old, new)
    assert await active(database, project_id, DAY) == (new,)


async def test_a_third_has_to_wait_or_to_end_both(database: Database, project_id: UUID) -> None:
    first, second = await rotate(database, project_id), await rotate(database, project_id)
    refused = await rotate_step_secret(
        database, VAULT, project_id=project_id, grace_seconds=1, audit=Audit(SYSTEM, START)
    )
    assert (refused.secret, [error.code for error in refused.errors]) == (None, ["STATE"])
    assert await active(database, project_id) == (first, second)
    third = await rotate(database, project_id, grace=0)
    assert await active(database, project_id) == (third,)
    assert await rotate(database, project_id, after=1) == (await active(database, project_id, 1))[1]


@pytest.mark.parametrize("grace", [-1, 2_592_001])
async def test_a_grace_has_bounds(database: Database, project_id: UUID, grace: int) -> None:
    refused = await rotate_step_secret(
        database, VAULT, project_id=project_id, grace_seconds=grace, audit=Audit(SYSTEM, START)
    )
    assert refused.errors == (UserError("graceSeconds is 0 to 2592000.", "INVALID", ("graceSeconds",)),)


async def test_rotating_and_needing_the_first_at_once_leaves_one_newest(database: Database, project_id: UUID) -> None:
    secret, needed, _ = await asyncio.gather(
        rotate(database, project_id), active(database, project_id), active(database, project_id)
    )
    held = await active(database, project_id)
    assert held[-1] == secret
    assert set(needed) <= set(held)
    assert await active(database, project_id, DAY) == (secret,)


async def test_what_cannot_be_opened_is_not_replaced(database: Database, project_id: UUID) -> None:
    held = await active(database, project_id)
    with pytest.raises(CannotOpen):
        await active(database, project_id, vault=Vault(b"another secret, also long enough"))
    assert await active(database, project_id) == held


async def test_the_newest_is_shown_once_to_an_admin(shop: Tenant) -> None:
    database, vault = shop.gateway.services.database, shop.gateway.services.vault
    rotated = (await shop.data(ROTATE))["rotateWorkflowSecret"]
    assert rotated["userErrors"] == []
    async with database.transaction() as connection:
        now = shop.gateway.services.clock.now()
        held = await active_step_secrets(connection, vault, project_id=shop.project_id, now=now)
    assert held == (rotated["secret"],)
    assert (await shop.data(ROTATE, grace=-1))["rotateWorkflowSecret"] == {
        "secret": None,
        "userErrors": [{"code": "INVALID", "path": ["graceSeconds"]}],
    }
    editor = await shop.as_role(Role.EDITOR)
    assert await editor.codes(ROTATE) == ["FORBIDDEN"]


@dataclass
class Bench:
    """A worker's dispatcher, and a receiver that steps send to."""

    desk: Desk
    receiver: WebhookReceiver
    project_id: UUID
    dispatcher: Dispatcher

    async def send(self, path: str, *, run_id: UUID | None, vault_is_known: bool = True) -> None:
        content = WebhookContent(event_id="evt_1", body='{"a":1}', url=self.receiver.url + path)
        delivery = new_delivery(
            self.desk.clock.now(),
            content=msgspec.json.encode(content).decode(),
            dispatch_key=host_key(self.receiver.url),
            workflow_run_id=run_id,
        )
        async with self.desk.database.transaction() as connection:
            await create_deliveries(
                connection, project_id=self.project_id, deliveries=[delivery], now=self.desk.clock.now()
            )
        await self.desk.drain(self.dispatcher, self.project_id)


@asynccontextmanager
async def open_bench(url: str, vault: Vault = VAULT) -> AsyncIterator[Bench]:
    async with open_desk(url) as desk, WebhookReceiver.running() as receiver:
        work = WebhookWork(vault, HttpClient(Egress(allowed="127.0.0.0/8")))
        dispatcher = Dispatcher(desk.database, {Channel.WEBHOOK: work}, desk.clock, desk.announced.append)
        try:
            yield Bench(desk, receiver, await desk.project(), dispatcher)
        finally:
            await dispatcher.stop(timedelta(seconds=5))
            await work.close()


async def test_a_step_is_signed_with_all_that_are_active_at_each_attempt(module_database_url: str) -> None:
    async with open_bench(module_database_url) as bench:
        await bench.send("/first", run_id=uuid7())
        (old,) = await active(bench.desk.database, bench.project_id)
        bench.receiver.secrets["/second"] = old
        bench.receiver.secrets["/third"] = await rotate(bench.desk.database, bench.project_id)
        await bench.send("/second", run_id=uuid7())
        bench.desk.clock.advance(seconds=DAY)
        await bench.send("/third", run_id=uuid7())
        first, second, third = bench.receiver.requests
        assert [each.headers["webhook-signature"].count("v1,") for each in (first, second, third)] == [1, 2, 1]
        assert (second.verified, third.verified) == (True, True)
        assert second.body == b'{"a":1}'


async def test_only_steps_are_signed_with_it(module_database_url: str) -> None:
    async with open_bench(module_database_url) as bench:
        await bench.send("/hook", run_id=None)
        assert bench.receiver.requests == []
        assert await bench.desk.statuses(bench.project_id) == {"FAILED": 1}


async def test_a_secret_that_cannot_be_opened_fails_the_step_and_says_so(module_database_url: str) -> None:
    async with open_bench(module_database_url, Vault(b"another secret, also long enough")) as bench:
        held = await active(bench.desk.database, bench.project_id)
        await bench.send("/hook", run_id=uuid7())
        async with bench.desk.database.connection() as connection:
            codes = await connection.fetch("SELECT error_code FROM deliveries WHERE project_id = $1", bench.project_id)
        assert [row["error_code"] for row in codes] == ["SECRET_UNREADABLE"]
        assert bench.receiver.requests == []
        assert await active(bench.desk.database, bench.project_id) == held
