"""How many pushes a second does one worker's sender make, and what does our own code add to the library's?

Data: `--sends` (default 3,000) pushes of some 200 bytes to as many device tokens, `--at-once` (default 64) under way at
a time, to the peers of tests/peers in a process of their own. Beside: for APNs, stock aioapns with the same token and
TLS; for FCM and Web Push, a bare aiohttp session that posts bodies of the same size to the same peer's refusal.

Shows: sends per second, best of `--rounds`, interleaved, and the CPU time of this process per send. The peers cost
more than the senders: rates are theirs as much as ours, CPU is ours alone. A round counts only when every push was
accepted.

Command: `python -m benchmarks.push [--sends 3000] [--at-once 64] [--rounds 3]`
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
from aioapns import APNs, NotificationRequest, PushType
from aioapns.connection import APNsTLSClientProtocol

from benchmarks.harness import BenchmarkError
from engine.channels.apns import ApnsSender, trusting
from engine.channels.fcm import FcmSender
from engine.channels.http import HttpClient
from engine.channels.push_message import (
    ApnsCredentials,
    ApnsMessage,
    FcmCredentials,
    FcmMessage,
    PushAccepted,
    PushEnvironment,
    WebPushMessage,
)
from engine.channels.web_push import WebPushSender, make_vapid_keys
from engine.dispatch.values import PushNotification
from engine.egress import Egress
from tests.peers.apns import ApnsPeer
from tests.peers.fcm import FcmPeer
from tests.peers.web_push import WebPushPeer

LOOPBACK = "127.0.0.0/8"
PUSH = PushNotification(title="Your order", body="is on its way " * 6, data={"orderId": 7})
SUBSCRIPTIONS = 100

Send = Callable[[int], Awaitable[bool]]


async def serve(pipe: Connection) -> None:
    """The peers, until the pipe closes."""
    async with ApnsPeer() as apns, FcmPeer() as fcm, WebPushPeer() as web:
        subscriptions = [web.subscribe() for _ in range(SUBSCRIPTIONS)]
        apple = {"url": apns.url, "ca": apns.ca_pem, "key": apns.key.p8, "bundle": apns.bundle_id}
        google = {"url": fcm.url, "account": fcm.service_account}
        pipe.send({"apns": apple, "fcm": google, "web": [(s.endpoint, s.p256dh, s.auth) for s in subscriptions]})
        await asyncio.to_thread(pipe.poll, None)


def serve_in_process(pipe: Connection) -> None:
    """The entry of the peers' process."""
    asyncio.run(serve(pipe))


def apns_sends(peer: dict[str, str], stack: AsyncExitStack) -> dict[str, Send]:
    """Ours, and stock aioapns."""
    key = {"key": peer["key"], "key_id": "KEYID12345", "team_id": "TEAMID1234"}
    credentials = ApnsCredentials(
        **key, bundle_id=peer["bundle"], production_url=peer["url"], ca_certificate=peer["ca"]
    )
    sender = ApnsSender(Egress(allowed=LOOPBACK))
    stack.push_async_callback(sender.close)
    stock = APNs(**key, topic=peer["bundle"], ssl_context=trusting(peer["ca"]))
    url = urlsplit(peer["url"])
    stock.pool.protocol_class = type(
        "Local", (APNsTLSClientProtocol,), {"APNS_SERVER": url.hostname, "APNS_PORT": url.port}
    )
    stack.callback(stock.pool.close)
    payload = {"aps": {"alert": {"title": PUSH.title, "body": PUSH.body}}, "orderId": 7}

    async def ours(number: int) -> bool:
        message = ApnsMessage(
            delivery_id=uuid4(),
            device_token=f"{number:064x}",
            environment=PushEnvironment.PRODUCTION,
            made_at=datetime.now(UTC),
            credentials=credentials,
            notification=PUSH,
        )
        return isinstance(await sender.send(message), PushAccepted)

    async def theirs(number: int) -> bool:
        # it finds no request whose id comes back in the other case
        request_id = str(uuid4()).upper()
        request = NotificationRequest(f"{number:064x}", payload, request_id, push_type=PushType.ALERT)
        return (await stock.send_notification(request)).is_successful

    return {"APNs, ours": ours, "APNs, stock aioapns": theirs}


def http_sends(peers: dict[str, Any], http: HttpClient, session: aiohttp.ClientSession) -> dict[str, Send]:
    """FCM, Web Push, and a bare session."""
    credentials = FcmCredentials(service_account=peers["fcm"]["account"], endpoint=peers["fcm"]["url"])
    fcm, web, vapid = FcmSender(http), WebPushSender(http), make_vapid_keys()

    async def google(number: int) -> bool:
        message = FcmMessage(
            delivery_id=uuid4(), registration_token=f"token-{number}", credentials=credentials, notification=PUSH
        )
        return isinstance(await fcm.send(message), PushAccepted)

    async def browser(number: int) -> bool:
        endpoint, p256dh, auth = peers["web"][number % SUBSCRIPTIONS]
        message = WebPushMessage(
            delivery_id=uuid4(),
            endpoint=endpoint,
            p256dh=p256dh,
            auth=auth,
            vapid=vapid,
            subject="mailto:push@shop.example",
            notification=PUSH,
        )
        return isinstance(await web.send(message), PushAccepted)

    async def bare(number: int) -> bool:
        body = json.dumps({"message": {"token": f"token-{number}", "data": {"text": "x" * 200}}}).encode()
        url = f"{peers['fcm']['url']}/v1/projects/demo-shop/messages:send"
        async with session.post(url, data=body) as response:
            await response.read()
            return response.status == 401

    return {"FCM, ours": google, "Web Push, ours": browser, "bare aiohttp, refused": bare}


async def measure(send: Send, sends: int, at_once: int) -> tuple[float, float]:
    """Sends per second, and seconds of CPU per send."""
    numbers = iter(range(sends))

    async def lane() -> None:
        for number in numbers:
            if not await send(number):
                raise BenchmarkError("a push was not accepted")

    if not await send(0):
        raise BenchmarkError("the first push was not accepted")
    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(lane() for _ in range(at_once)))
    return sends / (time.perf_counter() - started), (time.process_time() - cpu) / sends


async def run(peers: dict[str, Any], arguments: argparse.Namespace) -> None:
    """All variants in turn, `rounds` times; the best of each."""
    async with AsyncExitStack() as stack:
        http = HttpClient(Egress(allowed=LOOPBACK))
        stack.push_async_callback(http.close)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        variants = apns_sends(peers["apns"], stack) | http_sends(peers, http, session)
        best = dict.fromkeys(variants, (0.0, 0.0))
        for _ in range(arguments.rounds):
            for name, send in variants.items():
                best[name] = max(best[name], await measure(send, arguments.sends, arguments.at_once))
    for name, (rate, cpu) in best.items():
        print(f"{name:24} {rate:7,.0f} sends/s, {cpu * 1e6:5.0f} µs CPU each")


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sends", type=int, default=3000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    peers = multiprocessing.get_context("spawn").Process(target=serve_in_process, args=(theirs,))
    peers.start()
    try:
        asyncio.run(run(ours.recv(), arguments))
    finally:
        ours.send(None)
        peers.join()


if __name__ == "__main__":
    main()
