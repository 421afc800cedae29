"""`SENDORA_FAKE_PROVIDERS=1 make run`, as a newcomer has it: every channel goes through, and each step is seen live.

One data folder, started twice; the tests run in the order in which they stand here.
"""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from launch.ports import free_port
from tests.acceptance.gateway_client import Gateway, Socket, open_socket
from tests.acceptance.running import Running, wait_until

USERS = ["user_001", "user_002", "user_003"]
PROVIDERS_READY = "the project sends through providers on this machine"
START_SECONDS = 30.0
STOP_SECONDS = 5.0
ARRIVAL_SECONDS = 10.0
"""Far more than it takes: the machine may be busy."""

UPDATES = """subscription { deliveryUpdates { node { from to delivery { id channel userId } } } }"""
SEND_PUSH = """mutation ($input: SendPushInput!) {
  sendPush(input: $input) { queued deliveries { id } userErrors { message } } }"""
SEND_EMAIL = """mutation ($input: SendEmailInput!) {
  sendEmail(input: $input) { queued deliveries { id } userErrors { message } } }"""
SEND_SMS = """mutation ($input: SendSmsInput!) {
  sendSms(input: $input) { queued deliveries { id } userErrors { message } } }"""
ENDPOINTS = "{ webhookEndpoints(first: 10) { edges { node { id url enabled } } } }"

Steps = dict[str, list[str]]
"""The statuses that each delivery went through, by its id."""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("newcomer") / "data"
    yield folder
    for instance in Running.instances:  # a test that failed may have left its own
        if instance.data_dir == folder:
            instance.kill_all()


@pytest.fixture(scope="module")
def started(data_dir: Path) -> Running:
    """The first start."""
    return start(data_dir, free_port())


@pytest.fixture
def gateway(started: Running) -> Gateway:
    return Gateway.of(started)


def start(data_dir: Path, port: int) -> Running:
    running = Running(data_dir, port, SENDORA_FAKE_PROVIDERS="1")
    running.until_welcomed()
    wait_until(lambda: PROVIDERS_READY in running.output, seconds=START_SECONDS, what="providers")
    return running


async def send(gateway: Gateway, document: str, **given: Any) -> list[str]:
    """The ids of the deliveries of one send."""
    [payload] = (await gateway.data(document, input=given)).values()
    assert payload["userErrors"] == []
    assert payload["queued"] == len(payload["deliveries"])
    return [each["id"] for each in payload["deliveries"]]


async def follow(socket: Socket, until: Mapping[str, str]) -> Steps:
    """Read updates until each of these deliveries has reached its status."""
    steps: Steps = defaultdict(list)
    while any(steps[each][-1:] != [status] for each, status in until.items()):
        message = await socket.receive(within=ARRIVAL_SECONDS)
        assert message["type"] == "next", message
        update = message["payload"]["data"]["deliveryUpdates"]["node"]
        before = steps[update["delivery"]["id"]]
        assert update["from"] == (before[-1] if before else None)
        before.append(update["to"])
    return {each: steps[each] for each in until}


async def deliver_webhook(gateway: Gateway, socket: Socket) -> list[str]:
    """Track something that the endpoint wants; the statuses of what came of it."""
    await gateway.track(eventType="order.placed", userId="user_001")
    steps: list[str] = []
    while "DELIVERED" not in steps:
        update = (await socket.receive(within=ARRIVAL_SECONDS))["payload"]["data"]["deliveryUpdates"]["node"]
        assert update["delivery"]["channel"] == "WEBHOOK"
        steps.append(update["to"])
    return steps


async def test_a_push_reaches_the_device_of_each_sample_person(gateway: Gateway) -> None:
    async with open_socket(gateway) as socket:
        await socket.subscribe("u", UPDATES)
        await socket.position("u")
        sent = await send(gateway, SEND_PUSH, userIds=USERS, push={"title": "Hello", "body": "From here"})
        steps = await follow(socket, dict.fromkeys(sent, "SENT"))

    assert list(steps.values()) == [["QUEUED", "SENDING", "SENT"]] * 3
    for provider in ("apns received a push", "fcm received a push", "web push received a push, decrypted"):
        wait_until(lambda said=provider: said in gateway.running.output, seconds=ARRIVAL_SECONDS, what=provider)


async def test_a_mail_and_a_text_message_go_out_and_the_carrier_reports_back(gateway: Gateway) -> None:
    async with open_socket(gateway) as socket:
        await socket.subscribe("u", UPDATES)
        await socket.position("u")
        [mail] = await send(gateway, SEND_EMAIL, userIds=USERS[:1], subject="Your order", bodyText="It is on its way.")
        [text] = await send(gateway, SEND_SMS, userIds=USERS[1:2], body="Your code is 1234.")
        steps = await follow(socket, {mail: "SENT", text: "DELIVERED"})

    assert steps == {
        mail: ["QUEUED", "SENDING", "SENT"],
        text: ["QUEUED", "SENDING", "SENT", "DELIVERED"],
    }
    for said in ("smtp received a mail: Your order", "twilio received a text message: Your code is 1234."):
        wait_until(lambda said=said: said in gateway.running.output, seconds=ARRIVAL_SECONDS, what=said)


async def test_an_event_is_delivered_to_the_webhook_receiver(gateway: Gateway) -> None:
    async with open_socket(gateway) as socket:
        await socket.subscribe("u", UPDATES)
        await socket.position("u")
        assert await deliver_webhook(gateway, socket) == ["QUEUED", "SENDING", "DELIVERED"]
    wait_until(lambda: "webhook received a POST" in gateway.running.output, seconds=ARRIVAL_SECONDS, what="the webhook")


def test_ctrl_c_ends_everything_within_five_seconds(started: Running) -> None:
    assert started.stop(signal.SIGINT) < STOP_SECONDS
    assert started.process.returncode == 0
    assert started.left_over() == []
    assert "Traceback" not in started.output


async def test_a_second_start_works_on_and_makes_no_second_endpoint(started: Running, data_dir: Path) -> None:
    if started.process.poll() is None:
        started.stop()
    again = start(data_dir, started.port)
    gateway = Gateway.of(again)
    async with open_socket(gateway) as socket:
        await socket.subscribe("u", UPDATES)
        await socket.position("u")
        assert await deliver_webhook(gateway, socket) == ["QUEUED", "SENDING", "DELIVERED"]
        sent = await send(gateway, SEND_PUSH, userIds=USERS, push={"title": "Hello", "body": "Again"})
        # No device of the first start is left that nobody has any more
        steps = await follow(socket, dict.fromkeys(sent, "SENT"))
    edges = (await gateway.data(ENDPOINTS))["webhookEndpoints"]["edges"]

    assert list(steps.values()) == [["QUEUED", "SENDING", "SENT"]] * 3
    assert [edge["node"]["enabled"] for edge in edges] == [True]
    assert again.stop(signal.SIGINT) < STOP_SECONDS
    assert again.left_over() == []
