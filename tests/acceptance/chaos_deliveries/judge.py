"""The judgement: what the tables say, against what was asked for, what arrived outside, and what the streams showed.

Nothing of the product has a part in what is expected: its status machine and its names of events are said here again.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg

from tests.acceptance.chaos.writers import Ledger
from tests.acceptance.chaos_deliveries.receivers import World, was_answered_2xx
from tests.acceptance.chaos_deliveries.senders import Sends
from tests.acceptance.chaos_deliveries.watchers import Watcher
from tests.peers.receiver import Received

STEPS: Mapping[str | None, set[str]] = {
    None: {"QUEUED"},
    "QUEUED": {"SENDING"},
    "RETRYING": {"SENDING"},
    # QUEUED: given back without an attempt.
    "SENDING": {"SENT", "DELIVERED", "RETRYING", "UNCERTAIN", "QUEUED"},
}
FINAL = {"WEBHOOK": {"DELIVERED"}, "PUSH": {"SENT", "UNCERTAIN"}, "EMAIL": {"SENT", "UNCERTAIN"}}
FINAL["SMS"] = FINAL["EMAIL"]
EVENT_TYPES = {
    ("PUSH", None, "QUEUED"): "push.send_requested",
    ("PUSH", "SENDING", "SENT"): "push.sent",
    ("EMAIL", "SENDING", "SENT"): "email.sent",
    ("SMS", "SENDING", "SENT"): "sms.sent",
}
ENDPOINTS = {
    "/hook": ("order.",),
    "/moody": ("order.", "page.viewed"),
    "/echo": ("push.sent", "email.sent", "sms.sent"),
}
"""By path: how the types of the events begin that an endpoint wants."""

DELIVERIES = """SELECT delivery_id, channel, status, batch_id, user_id, recipient, event_seq, endpoint_id,
    attempt_count, content::text AS content
FROM deliveries WHERE project_id = $1"""
TRANSITIONS = """SELECT seq, delivery_id, from_status, to_status, channel, attempt_number
FROM delivery_transitions WHERE project_id = $1 ORDER BY seq"""
ATTEMPTS = """SELECT delivery_id, number, status_code FROM delivery_attempts WHERE project_id = $1
ORDER BY delivery_id, number"""
EVENTS = """SELECT seq, key, event_type, properties->>'deliveryId' AS delivery_id, context->>'cause' AS cause
FROM events WHERE project_id = $1 ORDER BY seq"""
BATCHES = "SELECT batch_id, idempotency_key FROM send_batches WHERE project_id = $1"
HEADS = "SELECT lane, head FROM heads WHERE project_id = $1"
TARGETS = "SELECT endpoint_id, url, after_seq FROM webhook_endpoints WHERE project_id = $1"


@dataclass(slots=True)
class Tables:
    """What is stored of a project."""

    deliveries: dict[UUID, asyncpg.Record]
    transitions: list[asyncpg.Record]
    attempts: dict[UUID, list[asyncpg.Record]]
    events: list[asyncpg.Record]
    batches: list[asyncpg.Record]
    heads: dict[int, int]
    targets: list[asyncpg.Record]

    @staticmethod
    async def read(connection: asyncpg.Connection, project_id: UUID) -> Tables:
        attempts: defaultdict[UUID, list[asyncpg.Record]] = defaultdict(list)
        for row in await connection.fetch(ATTEMPTS, project_id):
            attempts[row["delivery_id"]].append(row)
        return Tables(
            deliveries={row["delivery_id"]: row for row in await connection.fetch(DELIVERIES, project_id)},
            transitions=await connection.fetch(TRANSITIONS, project_id),
            attempts=attempts,
            events=await connection.fetch(EVENTS, project_id),
            batches=await connection.fetch(BATCHES, project_id),
            heads={row["lane"]: row["head"] for row in await connection.fetch(HEADS, project_id)},
            targets=await connection.fetch(TARGETS, project_id),
        )


@dataclass(slots=True)
class Judge:
    """Looks at everything once; `violations` yields a sentence for each broken promise."""

    tables: Tables
    ledger: Ledger
    sends: Sends
    world: World
    fates: Counter[str] = field(default_factory=Counter)
    """Of deliveries: channel, status, and how often it arrived."""

    def violations(self) -> Iterator[str]:
        """All but what the streams showed."""
        yield from self._lanes()
        yield from self._walks()
        yield from self._attempts()
        yield from self._derived_events()
        yield from self._acknowledged()
        yield from self._sends()
        yield from self._webhooks_made()
        yield from self._webhooks_arrived()
        yield from self._messages_arrived()

    def _lanes(self) -> Iterator[str]:
        """Both lanes are dense."""
        for name, rows, lane in (("log", self.tables.events, 1), ("deliveries lane", self.tables.transitions, 2)):
            if [row["seq"] for row in rows] != list(range(1, self.tables.heads[lane] + 1)):
                yield f"the {name} is not dense: {len(rows)} rows, head {self.tables.heads[lane]}"

    def _walks(self) -> Iterator[str]:
        """Each delivery went from step to step as it may, and stands where its last step led."""
        stands: dict[UUID, str] = {}
        for row in self.tables.transitions:
            delivery_id, before = row["delivery_id"], stands.get(row["delivery_id"])
            if row["from_status"] != before or row["to_status"] not in STEPS.get(before, set()):
                yield f"{delivery_id} stood at {before} and went from {row['from_status']} to {row['to_status']}"
            stands[delivery_id] = row["to_status"]
        for delivery_id, row in self.tables.deliveries.items():
            if stands.get(delivery_id) != row["status"]:
                yield f"{delivery_id} is {row['status']} and its last step led to {stands.get(delivery_id)}"
            if row["status"] not in FINAL[row["channel"]]:
                yield f"a {row['channel']} ended as {row['status']}: {delivery_id}"
        if stands.keys() - self.tables.deliveries.keys():
            yield f"steps of deliveries that are not there: {stands.keys() - self.tables.deliveries.keys()}"

    def _attempts(self) -> Iterator[str]:
        """Numbered without gaps, begun once each, and kept."""
        begun: Counter[UUID] = Counter()
        for row in self.tables.transitions:
            given_back = row["from_status"] == "SENDING" and row["to_status"] == "QUEUED"
            begun[row["delivery_id"]] += (row["to_status"] == "SENDING") - given_back
        for delivery_id, row in self.tables.deliveries.items():
            numbers = [attempt["number"] for attempt in self.tables.attempts.get(delivery_id, [])]
            counted = row["attempt_count"]
            if not numbers == list(range(1, counted + 1)) == list(range(1, begun[delivery_id] + 1)):
                yield f"{delivery_id} counts {counted} attempts, began {begun[delivery_id]}, kept {numbers}"

    def _derived_events(self) -> Iterator[str]:
        """An event for each step that has a name, and no other."""
        steps = (
            ((row["channel"], row["from_status"], row["to_status"]), f"dlv_{row['delivery_id'].hex}")
            for row in self.tables.transitions
        )
        wanted = Counter((EVENT_TYPES[step], delivery_id) for step, delivery_id in steps if step in EVENT_TYPES)
        found = Counter((row["event_type"], row["delivery_id"]) for row in self.tables.events if row["cause"])
        yield from _difference("events about deliveries", wanted, found)

    def _acknowledged(self) -> Iterator[str]:
        """What clients tracked is in the log once."""
        keys = Counter(row["key"] for row in self.tables.events)
        yield from (f"{key} is in the log {keys[key]} times" for key in self.ledger.sent if keys[key] != 1)

    def _sends(self) -> Iterator[str]:
        """Each send was made once, for whom it was asked, as it was answered."""
        made: defaultdict[str, list[asyncpg.Record]] = defaultdict(list)
        keys = {row["batch_id"]: row["idempotency_key"] for row in self.tables.batches}
        for row in self.tables.deliveries.values():
            if row["channel"] != "WEBHOOK":
                made[keys[row["batch_id"]]].append(row)
        yield from _difference("sends", Counter(self.sends.asked.keys()), Counter(keys.values()))
        for key, (channel, user_ids) in self.sends.asked.items():
            found = sorted((row["channel"], row["user_id"]) for row in made[key])
            if found != sorted((channel, user_id) for user_id in user_ids):
                yield f"{key} was for {user_ids} and made {found}"
            ids = {f"dlv_{row['delivery_id'].hex}" for row in made[key]}
            if ids != set(self.sends.answered.get(key, [])):
                yield f"{key} made {ids} and was answered {self.sends.answered.get(key)}"

    def _webhooks_made(self) -> Iterator[str]:
        """One for each event that an endpoint wants."""
        wanted: Counter[tuple[UUID, int]] = Counter()
        for target in self.tables.targets:
            begins = ENDPOINTS[urlsplit(target["url"]).path]
            wanted.update(
                (target["endpoint_id"], row["seq"])
                for row in self.tables.events
                if row["seq"] > target["after_seq"] and row["event_type"].startswith(begins)
            )
        found = Counter(
            (row["endpoint_id"], row["event_seq"])
            for row in self.tables.deliveries.values()
            if row["channel"] == "WEBHOOK"
        )
        yield from _difference("webhooks", wanted, found)

    def _webhooks_arrived(self) -> Iterator[str]:
        """DELIVERED exactly when a 2xx was given; the same bytes under the same id each time, and signed."""
        requests: defaultdict[tuple[str, str], list[Received]] = defaultdict(list)
        for receiver in self.world.receivers:
            for request in receiver.requests:
                requests[request.path, request.event_id].append(request)
        paths = {target["endpoint_id"]: urlsplit(target["url"]).path for target in self.tables.targets}
        for delivery_id, row in self.tables.deliveries.items():
            if row["channel"] == "WEBHOOK":
                content = json.loads(row["content"])
                came = requests.pop((paths[row["endpoint_id"]], content["eventId"]), [])
                self._note(row, len(came))
                if (row["status"] == "DELIVERED") != any(was_answered_2xx(request) for request in came):
                    yield f"{delivery_id} is {row['status']} after {[request.action for request in came]}"
                if {request.body.decode() for request in came} - {content["body"]}:
                    yield f"{delivery_id} came with another body"
                if any(request.verified is False for request in came):
                    yield f"{delivery_id} came with a wrong signature"
                last = [attempt["status_code"] for attempt in self.tables.attempts[delivery_id]][-1:]
                if (row["status"] == "DELIVERED") != (last == [200]):
                    yield f"{delivery_id} is {row['status']} and its last attempt was answered {last}"
        yield from (f"nobody made what came to {path} as {event_id}" for path, event_id in requests)

    def _messages_arrived(self) -> Iterator[str]:
        """Once where it is SENT, and never twice."""
        arrivals = self.world.arrivals()
        for delivery_id, row in self.tables.deliveries.items():
            if row["channel"] != "WEBHOOK":
                times = arrivals.pop(_mark(delivery_id, row), 0)
                self._note(row, times)
                if times > 1 or (row["status"] == "SENT" and times != 1):
                    yield f"a {row['channel']} is {row['status']} and arrived {times} times: {delivery_id}"
        yield from (f"nobody made what arrived as {mark}" for mark in arrivals)

    def _note(self, row: asyncpg.Record, times: int) -> None:
        often = "never" if times == 0 else "once" if times == 1 else "several times"
        self.fates[f"{row['channel']}: {row['status']}, arrived {often}"] += 1


def judge_watcher(watcher: Watcher, transitions: Sequence[asyncpg.Record], wanted: set[int]) -> Iterator[str]:
    """It was shown each step it wanted (`wanted` are their seqs) once, in order, as the table has it."""
    if watcher.start is None:
        yield f"{watcher.name} never got a stream"
        return
    expected = [
        (
            row["seq"],
            f"dlv_{row['delivery_id'].hex}",
            row["from_status"],
            row["to_status"],
            None if row["to_status"] == "SENDING" else row["attempt_number"],
        )
        for row in transitions
        if row["seq"] > watcher.start and row["seq"] in wanted
    ]
    found = [(seq, each.delivery_id, each.before, each.after, each.attempt) for seq, each in watcher.received]
    if found != expected:
        first = next((pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]), None)
        yield f"{watcher.name} was shown {len(found)} of {len(expected)}; the first that differ: {first}"


def _mark(delivery_id: UUID, row: asyncpg.Record) -> str:
    """What tells a message from all others where it arrives."""
    content = json.loads(row["content"])
    if row["channel"] == "PUSH":
        return f"dlv_{delivery_id.hex}"
    return f"{row['recipient']} {content['subject' if row['channel'] == 'EMAIL' else 'body']}"


def _difference(what: str, wanted: Counter[Any], found: Counter[Any]) -> Iterator[str]:
    missing, surplus = wanted - found, found - wanted
    if missing or surplus:
        yield f"{what}: missing {len(missing)} {[*missing][:5]}, too many {len(surplus)} {[*surplus][:5]}"
