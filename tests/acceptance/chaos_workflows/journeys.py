"""A thousand people on one journey, everybody whom it reaches outside, and who watches them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg

from engine.cursors import CursorKind
from tests.acceptance.chaos.clients import RUN_UPDATES, RunUpdate
from tests.acceptance.chaos.deployment import Deployment
from tests.acceptance.chaos_deliveries.watchers import Interest, Watcher
from tests.peers.__main__ import ADD_DOMAIN, CONFIGURE, DOMAIN, Client
from tests.peers.receiver import Reply, WebhookReceiver
from tests.peers.smtp import SmtpPeer, smtp_peer

PEOPLE = 1_000
BATCH = 250
ANSWER_SECONDS = 0.05
"""Of the receiver and of the relay, so that always some are being asked."""
PAUSE_MINUTES = 0.05
SAVE_WORKFLOW = """mutation ($input: SaveWorkflowInput!) { saveWorkflow(input: $input) {
  workflow { id } userErrors { path message } } }"""
TRACK_BATCH = """mutation ($events: [EventInput!]!) {
  trackBatch(input: {events: $events}) { accepted userErrors { message } } }"""
VERIFY = """UPDATE sender_domains SET status = 'VERIFIED', verified_at = now() - interval '60 days'
WHERE project_id = $1"""
"""Older than a domain that may send only a little."""


@dataclass(frozen=True, slots=True)
class Person:
    """One of them. Every third pays."""

    number: int

    @property
    def user_id(self) -> str:
        return f"person_{self.number:04d}"

    @property
    def email(self) -> str:
        return f"{self.user_id}@customers.example"

    @property
    def plan(self) -> str:
        return "pro" if self.number % 3 == 0 else "free"

    @property
    def labels(self) -> list[str]:
        """The steps that this person goes through."""
        return ["which", "thank" if self.plan == "pro" else "note", "call", "pause", "mail"]


class RunWatcher(Watcher):
    """Follows `workflowRunUpdates`."""

    document = RUN_UPDATES
    kinds = frozenset({CursorKind.RUNS, CursorKind.HEAD})
    lane = 2
    item = RunUpdate


INTERESTS = (
    Interest("all runs, by socket", over_socket=True),
    Interest("all runs, by events", over_socket=False),
    Interest(
        "those that end", over_socket=True, delivery_filter={"statuses": ["COMPLETED"]}, sql="status = 'COMPLETED'"
    ),
)


class World:
    """The receiver and the relay."""

    def __init__(self, receiver: WebhookReceiver, smtp: SmtpPeer) -> None:
        self.receiver = receiver
        self.smtp = smtp
        self.people = [Person(number) for number in range(PEOPLE)]
        receiver.scripts["/hook"] = [Reply(after=ANSWER_SECONDS)] * (3 * PEOPLE)
        smtp.answer_seconds = ANSWER_SECONDS

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[World]:
        async with WebhookReceiver.running() as receiver, smtp_peer() as smtp:
            yield cls(receiver, smtp)

    async def open(self, deployment: Deployment) -> None:
        """People, accounts, and the workflow."""
        async with open_client(deployment) as client:
            settings = {"host": "127.0.0.1", "port": self.smtp.port, "security": "NONE", "from": f"Shop <a@{DOMAIN}>"}
            await client.run(CONFIGURE, input={"kind": "SMTP", "settings": settings})
            await client.run(ADD_DOMAIN, domain=DOMAIN)
            await verify(deployment)
            given = {
                "name": "Journey",
                "trigger": {"eventType": "order.placed"},
                "isActive": True,
                "steps": self.steps(),
            }
            await client.run(SAVE_WORKFLOW, input=given)
            await track(
                client,
                [
                    {
                        "eventType": "user.identified",
                        "userId": person.user_id,
                        "context": {"traits": {"email": person.email, "plan": person.plan}},
                    }
                    for person in self.people
                ],
            )

    async def order(self, deployment: Deployment) -> None:
        """Everybody orders once."""
        async with open_client(deployment) as client:
            await track(
                client,
                [
                    {"id": f"order-{person.number}", "eventType": "order.placed", "userId": person.user_id}
                    for person in self.people
                ],
            )

    def steps(self) -> list[dict[str, Any]]:
        """A branch, a change of the person, a webhook, a wait, a mail."""
        condition = {"trait": "plan", "value": "pro"}
        mail = {"to": "{{ user.email }}", "subject": "For {{ user.id }}", "bodyText": "{{ user.said }} {{ run.id }}"}
        return [
            step("which", "BRANCH", {"condition": condition, "ifTrue": "thank", "ifFalse": "note"}),
            {**step("thank", "UPDATE_PROFILE", {"traits": {"said": "thank you"}}), "next": "call"},
            step("note", "UPDATE_PROFILE", {"traits": {"said": "noted"}}),
            step("call", "WEBHOOK", {"url": f"{self.receiver.url}/hook", "body": {"user": "{{ user.id }}"}}),
            {**step("pause", "WAIT", {}), "delayMinutes": PAUSE_MINUTES},
            step("mail", "SEND_EMAIL", mail),
        ]


def step(label: str, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"label": label, "type": kind, "config": config}


async def track(client: Client, events: Sequence[dict[str, Any]]) -> None:
    for start in range(0, len(events), BATCH):
        await client.run(TRACK_BATCH, events=list(events[start : start + BATCH]))


@asynccontextmanager
async def open_client(deployment: Deployment) -> AsyncIterator[Client]:
    url = deployment.gateways[0].url.removesuffix("/graphql")
    async with aiohttp.ClientSession() as session:
        yield Client(session, url, deployment.keys.secret_key)


async def verify(deployment: Deployment) -> None:
    connection = await asyncpg.connect(deployment.postgres.url)
    try:
        await connection.execute(VERIFY, UUID(deployment.keys.project_id))
    finally:
        await connection.close()
