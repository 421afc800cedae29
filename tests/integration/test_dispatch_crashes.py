"""A worker dies at any await of the send path: nothing is lost, and what must not be repeated is not.

`CRASH_STRIDE=1` kills a worker at every single step of the real channels too, instead of at some thirty of each.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Hashable
from pathlib import Path
from uuid import UUID

import msgspec

from db.deliveries import read_deliveries
from db.delivery_records import DeliveryRecord
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.values import Channel, DeliveryStatus, WebhookContent
from tests.integration.dispatch_crash_scenes import (
    DELIVERIES,
    PASSWORD,
    USER,
    EmailScene,
    MemoryScene,
    Scene,
    WebhookScene,
)
from tests.integration.dispatch_support import Desk, open_desk
from tests.peers.authority import Authority
from tests.peers.receiver import WebhookReceiver
from tests.peers.smtp import smtp_peer

ROOT = Path(__file__).resolve().parents[2]
STRIDE = int(os.environ.get("CRASH_STRIDE", "0"))
"""0: one with which some thirty die."""
EVERY = 1


async def kill_workers(url: str, stride: int, *scene: str) -> int:
    """Let workers die; returns how many lives there were."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.dispatch_crash_driver",
        url,
        str(stride),
        *scene,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    counted = json.loads(output)
    # Some lives have fewer steps than the one that was counted.
    assert counted["lives"] * 0.8 <= counted["killed"] < counted["lives"]
    return int(counted["lives"])


async def take_over(desk: Desk, scene: Scene, lives: int) -> list[DeliveryRecord]:
    """What another worker makes of all that was left: every delivery as it is then."""
    async with desk.database.connection() as connection:
        found = await connection.fetch("SELECT DISTINCT project_id FROM deliveries")
    projects = [row["project_id"] for row in found]
    assert len(projects) == lives
    dispatcher = Dispatcher(desk.database, scene.works, desk.clock, desk.announced.append)
    for project_id in projects:
        await desk.end_leases(project_id)
        await dispatcher.take_over(project_id)
    await desk.drain(dispatcher, *projects)
    await scene.close()
    taken_over: list[DeliveryRecord] = []
    for project_id in projects:
        steps = await desk.steps(project_id)
        assert len(steps) == DELIVERIES * len(scene.works)
        async with desk.database.connection() as connection:
            deliveries = await read_deliveries(connection, project_id=project_id, delivery_ids=list(steps))
        sent = Counter(f"{each.channel.lower()}.sent" for each in deliveries if each.status == DeliveryStatus.SENT)
        events = await desk.events(project_id)
        assert {name: times for name, times in events.items() if name.endswith(".sent")} == sent
        taken_over += deliveries
    return taken_over


def check_repeatable(
    deliveries: list[DeliveryRecord], received: Counter[Hashable], key_of: Callable[[DeliveryRecord], Hashable]
) -> None:
    """Each was received, repeated perhaps, under one key; nothing came under any other."""
    assert {(each.status, each.channel) for each in deliveries} == {(DeliveryStatus.DELIVERED, Channel.WEBHOOK)}
    assert received.keys() == {key_of(each) for each in deliveries}
    # The crashes hit: some repeated what they had sent.
    assert max(received.values()) == 2


def check_sent_once(
    deliveries: list[DeliveryRecord], received: Counter[Hashable], key_of: Callable[[DeliveryRecord], Hashable]
) -> None:
    """Nothing was received twice; what is SENT was received, and of the rest it is said that nobody knows."""
    assert max(received.values()) == 1
    assert received.keys() <= {key_of(each) for each in deliveries}
    for each in deliveries:
        assert each.status == DeliveryStatus.UNCERTAIN or (each.status, received[key_of(each)]) == ("SENT", 1)
    in_doubt = Counter(received[key_of(each)] for each in deliveries if each.status == DeliveryStatus.UNCERTAIN)
    # The crashes hit: before the provider had it, and after.
    assert in_doubt.keys() == {0, 1}
    assert in_doubt.total() < len(deliveries)


async def test_a_worker_killed_at_any_await_loses_nothing(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "received"
    lives = await kill_workers(database_url, EVERY, "memory", str(file))
    assert lives > 30
    received: Counter[Hashable] = Counter(UUID(line) for line in file.read_text().splitlines())

    async with open_desk(database_url) as desk:
        deliveries = await take_over(desk, MemoryScene(lambda message: received.update([message.key])), lives)
    webhooks = [each for each in deliveries if each.channel == Channel.WEBHOOK]
    pushes = [each for each in deliveries if each.channel == Channel.PUSH]
    keys = {each.delivery_id for each in pushes}
    pushed: Counter[Hashable] = Counter({key: times for key, times in received.items() if key in keys})
    check_sent_once(pushes, pushed, lambda each: each.delivery_id)
    check_repeatable(webhooks, received - pushed, lambda each: each.delivery_id)


async def test_a_worker_killed_while_it_sends_webhooks_loses_none(database_url: str) -> None:
    async with WebhookReceiver.running() as receiver, open_desk(database_url) as desk:
        lives = await kill_workers(database_url, STRIDE, "webhook", receiver.url)
        deliveries = await take_over(desk, WebhookScene(receiver.url), lives)
    # What a delivery says: where it goes, its event id and its body.
    received: Counter[Hashable] = Counter((each.path, each.event_id, each.body) for each in receiver.requests)
    check_repeatable(deliveries, received, webhook_of)


def webhook_of(delivery: DeliveryRecord) -> Hashable:
    content = msgspec.json.decode(delivery.content, type=WebhookContent)
    return f"/{delivery.project_id}", content.event_id, content.body.encode()


async def test_a_worker_killed_while_it_sends_mail_repeats_none(database_url: str) -> None:
    authority = Authority()
    async with (
        smtp_peer(tls=authority.server_context(), users={USER: PASSWORD}) as relay,
        open_desk(database_url) as desk,
    ):
        lives = await kill_workers(database_url, STRIDE, "email", str(relay.port), authority.ca_pem)
        deliveries = await take_over(desk, EmailScene(str(relay.port), authority.ca_pem), lives)
    received: Counter[Hashable] = Counter(each.recipient for each in relay.received)
    check_sent_once(deliveries, received, lambda each: each.recipient)
