"""All providers on loopback for `make run`, so that deliveries go through without an account anywhere.

Starts every peer, sets the project up as any client would (providers, a sender domain, tokens of three devices, a
webhook endpoint), and prints what the providers receive. A provider of the project that leads to the outside stays as
it is. Ends when its standard input does.

Command: `SENDORA_API_KEY=sk_… python -m tests.peers --url http://127.0.0.1:8000 --dns-port 5353`
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from tests.peers.apns import ApnsPeer
from tests.peers.dns import dns_peer
from tests.peers.fcm import FcmPeer
from tests.peers.ollama import OllamaPeer
from tests.peers.receiver import WebhookReceiver
from tests.peers.smtp import smtp_peer
from tests.peers.twilio import TwilioPeer
from tests.peers.web_push import WebPushPeer

DOMAIN = "shop.example"
USERS = ("user_001", "user_002", "user_003")
"""Sample people, who get a device each: an iPhone, an Android, a browser."""
LOOK_SECONDS = 0.2
"""Between looks at what was received."""
WEB_PUSH_PORT_STEP = 1000
"""From the gateway's port to the push service's: the same at every start."""
LOOPBACK = ("http://127.0.0.1", "https://127.0.0.1", "127.0.0.1")

CONFIGURE = """mutation ($input: ConfigureProviderInput!) {
  configureProvider(input: $input) { userErrors { message path } } }"""
REGISTER = """mutation ($input: RegisterPushTokenInput!) {
  registerPushToken(input: $input) { userErrors { message path } } }"""
IDENTIFY = "mutation ($input: IdentifyInput!) { identify(input: $input) { userErrors { message path } } }"
SAVE_ENDPOINT = """mutation ($input: SaveWebhookEndpointInput!) {
  saveWebhookEndpoint(input: $input) { endpoint { id } userErrors { message path } } }"""
ADD_DOMAIN = """mutation ($domain: String!) {
  addSenderDomain(domain: $domain) {
    senderDomain { id dnsRecords { type name value } } userErrors { code message } } }"""
VERIFY_DOMAIN = """mutation ($id: ID!) {
  verifySenderDomain(id: $id) { senderDomain { status } userErrors { message } } }"""
FOUND = """{ providers { kind settings }
  senderDomains { id domain dnsRecords { type name value } }
  webhookEndpoints(first: 100) { edges { node { id url } } }
  pushSettings { vapidPublicKey } }"""


class Client:
    """A client of the gateway."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self._session = session
        self._url = f"{url}/graphql"
        self._headers = {"x-api-key": key, "content-type": "application/json"}

    async def run(self, query: str, **variables: Any) -> Any:
        """The data. Raises `RuntimeError` for errors of any kind."""
        body = orjson.dumps({"query": query, "variables": variables})
        async with self._session.post(self._url, data=body, headers=self._headers) as response:
            answer = orjson.loads(await response.read())
        errors = answer.get("errors") or [
            error
            for payload in answer["data"].values()
            if isinstance(payload, dict)
            for error in payload.get("userErrors") or ()
        ]
        if errors:
            raise RuntimeError(str(errors))
        return answer["data"]


class Peers:
    """Every provider, running."""

    def __init__(self, dns_port: int, web_push_port: int = 0) -> None:
        self._dns_port = dns_port
        self._web_push_port = web_push_port
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Peers:
        enter = self._stack.enter_async_context
        self.apns = await enter(ApnsPeer())
        self.fcm = await enter(FcmPeer())
        self.web_push = await self._start_web_push()
        self.smtp = await enter(smtp_peer())
        self.twilio = await enter(TwilioPeer.running())
        self.ollama = await enter(OllamaPeer.running())
        self.receiver = await enter(WebhookReceiver.running())
        self.dns = await enter(dns_peer(port=self._dns_port))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start_web_push(self) -> WebPushPeer:
        """At its port, which is part of every subscription; at any, where somebody else has that one."""
        try:
            return await self._stack.enter_async_context(WebPushPeer(port=self._web_push_port))
        except OSError:
            return await self._stack.enter_async_context(WebPushPeer())

    def accounts(self) -> Iterator[dict[str, Any]]:
        """What `configureProvider` takes for each."""
        apns = self.apns
        yield {
            "kind": "APNS",
            "settings": {
                "keyId": apns.key.key_id,
                "teamId": apns.key.team_id,
                "bundleId": apns.bundle_id,
                "productionUrl": apns.url,
                "sandboxUrl": apns.url,
                "caCertificate": apns.ca_pem,
            },
            "secrets": {"privateKey": apns.key.p8},
        }
        yield {
            "kind": "FCM",
            "settings": {"endpoint": self.fcm.url},
            "secrets": {"serviceAccount": orjson.loads(self.fcm.service_account)},
        }
        yield {
            "kind": "SMTP",
            "settings": {
                "host": "127.0.0.1",
                "port": self.smtp.port,
                "security": "NONE",
                "from": f"Shop <hello@{DOMAIN}>",
            },
        }
        yield {"kind": "TWILIO", "settings": self.twilio.settings(), "secrets": self.twilio.secrets()}
        yield {"kind": "OLLAMA", "settings": self.ollama.settings()}

    def received(self) -> Iterator[tuple[str, Callable[[], Iterable[str]]]]:
        """For each, a line about everything that it has received so far."""
        yield "apns", lambda: [f"push: {_short(push.payload)}" for push in self.apns.accepted]
        yield "fcm", lambda: [f"push: {_short(message)}" for message in self.fcm.accepted]
        yield "web push", lambda: [f"push, decrypted: {_short(push.payload)}" for push in self.web_push.accepted]
        yield "smtp", lambda: [f"mail: {mail.message['Subject']}" for mail in self.smtp.received]
        yield "twilio", lambda: [f"text message: {message.form.get('Body')}" for message in self.twilio.messages]
        yield "ollama", lambda: [f"prompt: {_short(chat['messages'][-1]['content'])}" for chat in self.ollama.asked]
        yield "webhook", lambda: [_request_line(request) for request in self.receiver.requests]


async def set_up(client: Client, peers: Peers) -> None:
    """Make the project use the peers, without touching what leads elsewhere."""
    found = await client.run(FOUND)
    theirs = {each["kind"] for each in found["providers"] if not _is_ours(each)}
    for account in peers.accounts():
        if account["kind"] not in theirs:
            await client.run(CONFIGURE, input=account)
    await _set_up_domain(client, peers, found["senderDomains"])
    await _set_up_devices(client, peers, found["pushSettings"]["vapidPublicKey"])
    await _set_up_endpoint(client, peers, [edge["node"] for edge in found["webhookEndpoints"]["edges"]])


def _is_ours(provider: dict[str, Any]) -> bool:
    targets = [
        value
        for name, value in provider["settings"].items()
        if name in {"host", "baseUrl", "endpoint", "productionUrl", "sandboxUrl"}
    ]
    return bool(targets) and all(str(target).startswith(LOOPBACK) for target in targets)


async def _set_up_domain(client: Client, peers: Peers, domains: list[dict[str, Any]]) -> None:
    domain = next((each for each in domains if each["domain"] == DOMAIN), None)
    if domain is None:
        domain = (await client.run(ADD_DOMAIN, domain=DOMAIN))["addSenderDomain"]["senderDomain"]
    for record in domain["dnsRecords"]:
        peers.dns.txt[record["name"]] = [record["value"]]
    await client.run(VERIFY_DOMAIN, id=domain["id"])


async def _set_up_devices(client: Client, peers: Peers, vapid_public_key: str) -> None:
    # The same at every start: nobody collects subscriptions of browsers that are gone.
    browser = peers.web_push.subscribe(vapid_public_key, name=USERS[2])
    devices = (
        {"platform": "IOS", "token": "a1b2" * 16},
        {"platform": "ANDROID", "token": "fcm-token-of-user_002"},
        {
            "platform": "WEB",
            "token": browser.endpoint,
            "webPushKeys": {"p256dh": browser.p256dh, "auth": browser.auth},
        },
    )
    for user, phone, device in zip(USERS, ("+14155550101", "+14155550102", "+14155550103"), devices, strict=True):
        traits = {"email": f"{user}@customers.example", "phone": phone}
        await client.run(IDENTIFY, input={"userId": user, "traits": traits})
        await client.run(REGISTER, input={"userId": user, "timezone": "UTC", "locale": "en", **device})


async def _set_up_endpoint(client: Client, peers: Peers, endpoints: list[dict[str, Any]]) -> None:
    """One endpoint for everything but what deliveries say of themselves, under today's port."""
    ours = next((each["id"] for each in endpoints if each["url"].startswith(LOOPBACK)), None)
    wanted = {"url": f"{peers.receiver.url}/hook", "events": ["order.*", "checkout_completed"], "allowPlainHttp": True}
    await client.run(SAVE_ENDPOINT, input=wanted if ours is None else {"id": ours, "enabled": True, **wanted})


async def report_text_messages(peers: Peers) -> None:
    """As the carrier does: what was taken is delivered a moment later."""
    reported = 0
    while True:
        for message in peers.twilio.messages[reported:]:
            reported += 1
            with contextlib.suppress(aiohttp.ClientError):
                await peers.twilio.report(message, "delivered")
        await asyncio.sleep(LOOK_SECONDS)


async def tell(peers: Peers) -> None:
    """Print what comes, for ever."""
    told = {name: 0 for name, _ in peers.received()}
    while True:
        for name, lines in peers.received():
            fresh = list(lines())[told[name] :]
            told[name] += len(fresh)
            for line in fresh:
                print(f"{name} received a {line}", flush=True)
        await asyncio.sleep(LOOK_SECONDS)


def _short(value: object) -> str:
    return orjson.dumps(value).decode()[:300]


def _request_line(request: Any) -> str:
    return f"{request.method}: {request.body[:300].decode(errors='replace')}"


async def main(url: str, key: str, dns_port: int) -> None:
    web_push_port = ((urlsplit(url).port or 0) + WEB_PUSH_PORT_STEP) % 65_536
    async with Peers(dns_port, web_push_port) as peers, aiohttp.ClientSession() as session:
        await set_up(Client(session, url, key), peers)
        print("the project sends through providers on this machine; what they receive appears here", flush=True)
        telling = asyncio.gather(tell(peers), report_text_messages(peers))
        await asyncio.to_thread(sys.stdin.buffer.read)
        telling.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--dns-port", type=int, required=True)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.url, os.environ["SENDORA_API_KEY"], arguments.dns_port))
