"""The judgement: what the tables say of runs, against what the journey is, what arrived outside, what was watched.

Nothing of the product has a part in what is expected.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg

from tests.acceptance.chaos_workflows.journeys import Person, RunWatcher, World

OUTCOMES: Mapping[str, str] = {
    "which": "BRANCHED",
    "thank": "OK",
    "note": "OK",
    "call": "SENT",
    "pause": "WAITED",
    "mail": "SENT",
}
STAYS_OPEN = {"call", "pause", "mail"}
"""Steps that are shown twice: when they begin, and when they end."""
IN_DOUBT = re.compile(r".*[Ii]t may have been sent\. \((WorkerLost|NO_ANSWER)\)")
"""Of a worker that died, and of a relay that did not answer in time on a machine that is busy with starting others."""
MESSAGE_ID = re.compile(rb"^Message-ID:\s*(\S+)", re.MULTILINE | re.IGNORECASE)

RUNS = "SELECT run_id, user_id, status, error, steps_made FROM workflow_runs WHERE project_id = $1"
STEPS = """SELECT run_id, number, label, outcome, detail, started_at, finished_at FROM workflow_run_steps
WHERE project_id = $1 ORDER BY run_id, number"""
UPDATES = """SELECT seq, run_id, status, step->>'label' AS label, step->>'outcome' AS outcome
FROM workflow_run_updates WHERE project_id = $1 ORDER BY seq"""
DELIVERIES = """SELECT delivery_id, workflow_run_id, workflow_step_number, channel, status, recipient,
    content->>'eventId' AS event_id, error_message || ' (' || error_code || ')' AS said
    FROM deliveries WHERE project_id = $1"""
EVENTS = "SELECT event_type, count(*) AS number FROM events WHERE project_id = $1 GROUP BY event_type"
SAID = "SELECT user_id, traits->>'said' AS said FROM profiles WHERE project_id = $1"
HEAD = "SELECT head FROM heads WHERE project_id = $1 AND lane = 3"


@dataclass(slots=True)
class Tables:
    """What is stored of a project."""

    runs: list[asyncpg.Record]
    steps: dict[UUID, list[asyncpg.Record]]
    updates: list[asyncpg.Record]
    deliveries: dict[UUID, list[asyncpg.Record]]
    events: Counter[str]
    said: dict[str, str | None]
    head: int

    @staticmethod
    async def read(connection: asyncpg.Connection, project_id: UUID) -> Tables:
        return Tables(
            runs=await connection.fetch(RUNS, project_id),
            steps=_grouped(await connection.fetch(STEPS, project_id), "run_id"),
            updates=await connection.fetch(UPDATES, project_id),
            deliveries=_grouped(await connection.fetch(DELIVERIES, project_id), "workflow_run_id"),
            events=Counter({row["event_type"]: row["number"] for row in await connection.fetch(EVENTS, project_id)}),
            said={row["user_id"]: row["said"] for row in await connection.fetch(SAID, project_id)},
            head=await connection.fetchval(HEAD, project_id),
        )


@dataclass(slots=True)
class Judge:
    """Looks at everything once; `violations` yields a sentence for each broken promise. `fates` are of messages."""

    tables: Tables
    world: World
    fates: Counter[str] = field(default_factory=Counter)

    def violations(self) -> Iterator[str]:
        """All but what watchers were shown."""
        people = {person.user_id: person for person in self.world.people}
        began = Counter(row["user_id"] for row in self.tables.runs)
        yield from (f"{name} has {began[name]} runs" for name in people if began[name] != 1)
        shown = _grouped(self.tables.updates, "run_id")
        for run in self.tables.runs:
            person = people[run["user_id"]]
            yield from self._run(run, person)
            yield from self._lane(run, person, shown[run["run_id"]])
        yield from self._once()
        yield from self._arrived()
        if [row["seq"] for row in self.tables.updates] != list(range(1, self.tables.head + 1)):
            yield f"the runs lane is not dense: {len(self.tables.updates)} rows, head {self.tables.head}"

    def _run(self, run: asyncpg.Record, person: Person) -> Iterator[str]:
        """It ended, and its trace has every step of its way once, one after the other."""
        if (run["status"], run["steps_made"]) != ("COMPLETED", len(person.labels)):
            yield f"{person} ended as {run['status']} after {run['steps_made']} steps: {run['error']}"
        steps = self.tables.steps.get(run["run_id"], [])
        found = [(row["number"], row["label"], row["outcome"]) for row in steps]
        if found != [(number, label, OUTCOMES[label]) for number, label in enumerate(person.labels, 1)]:
            yield f"{person} went through {found}"
        times = [at for row in steps for at in (row["started_at"], row["finished_at"])]
        if times != sorted(times):
            yield f"the steps of {person} overlap: {times}"
        if self.tables.said[person.user_id] != ("thank you" if person.plan == "pro" else "noted"):
            yield f"{person} is said {self.tables.said[person.user_id]}"

    def _lane(self, run: asyncpg.Record, person: Person, shown: Sequence[asyncpg.Record]) -> Iterator[str]:
        """Its items of the lane: the beginning, then each step as it begins and ends; the last says that it is over."""
        expected: list[tuple[str, str | None, str | None]] = [("RUNNING", None, None)]
        for label in person.labels:
            expected += [("RUNNING", label, None)] * (label in STAYS_OPEN) + [("RUNNING", label, OUTCOMES[label])]
        expected[-1] = ("COMPLETED", *expected[-1][1:])
        found = [(row["status"], row["label"], row["outcome"]) for row in shown]
        if found != expected:
            yield f"the lane says of {run['run_id']} {found}"

    def _once(self) -> Iterator[str]:
        """The log says each thing once."""
        people = len(self.world.people)
        expected = {
            "order.placed": people,
            "automation.run_started": people,
            "automation.step_completed": sum(len(person.labels) for person in self.world.people),
            "automation.run_completed": people,
            "profile.updated": people,
            "automation.run_failed": 0,
        }
        for event_type, number in expected.items():
            if self.tables.events[event_type] != number:
                yield f"{event_type} is in the log {self.tables.events[event_type]} times, not {number}"

    def _arrived(self) -> Iterator[str]:
        """One delivery for each step that sends; the receiver got each key, the relay none twice."""
        hooks = Counter(request.event_id for request in self.world.receiver.requests)
        mails = Counter(MESSAGE_ID.findall(mail.content)[0] for mail in self.world.smtp.received)
        to = Counter(mail.recipient for mail in self.world.smtp.received)
        yield from (f"{key.decode()} came {times} times" for key, times in mails.items() if times > 1)
        for run in self.tables.runs:
            made = {row["channel"]: row for row in self.tables.deliveries.get(run["run_id"], [])}
            if len(made) != len(self.tables.deliveries.get(run["run_id"], [])) or made.keys() != {"WEBHOOK", "EMAIL"}:
                yield f"{run['run_id']} made {self.tables.deliveries.get(run['run_id'])}"
                continue
            yield from self._webhook(made["WEBHOOK"], hooks)
            yield from self._mail(made["EMAIL"], to, self.tables.steps[run["run_id"]][-1]["detail"])
        yield from (f"nobody made {key}, which came {times} times" for key, times in hooks.items())

    def _webhook(self, row: asyncpg.Record, hooks: Counter[str]) -> Iterator[str]:
        times = hooks.pop(row["event_id"], 0)
        self.fates[f"WEBHOOK: {row['status']}, arrived {'once' if times == 1 else 'several times'}"] += 1
        if row["status"] != "DELIVERED" or not times:
            yield f"a webhook is {row['status']} and came {times} times"

    def _mail(self, row: asyncpg.Record, to: Counter[str], detail: str | None) -> Iterator[str]:
        times = to[row["recipient"]]
        self.fates[f"EMAIL: {row['status']}, arrived {'once' if times else 'never'}"] += 1
        if times > 1 or row["status"] not in ("SENT", "UNCERTAIN") or (row["status"] == "SENT" and times != 1):
            yield f"a mail is {row['status']} and came {times} times to {row['recipient']}"
        is_doubted = detail is not None and detail == row["said"] and IN_DOUBT.fullmatch(detail) is not None
        if not (is_doubted if row["status"] == "UNCERTAIN" else detail is None):
            yield f"a mail is {row['status']} and its step says {detail}"


def judge_watcher(watcher: RunWatcher, updates: Sequence[asyncpg.Record], wanted: set[int]) -> Iterator[str]:
    """It was shown each item that it wanted (`wanted` are their seqs) once, in order, as the table has it."""
    if watcher.start is None:
        yield f"{watcher.name} never got a stream"
        return
    expected = [
        (row["seq"], f"run_{row['run_id'].hex}", row["status"], row["label"], row["outcome"])
        for row in updates
        if row["seq"] > watcher.start and row["seq"] in wanted
    ]
    found = [(seq, each.run_id, each.status, each.label, each.outcome) for seq, each in watcher.received]
    if found != expected:
        first = next((pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]), None)
        yield f"{watcher.name} was shown {len(found)} of {len(expected)}; the first that differ: {first}"


def _grouped(rows: Sequence[asyncpg.Record], column: str) -> dict[Any, list[asyncpg.Record]]:
    groups: defaultdict[Any, list[asyncpg.Record]] = defaultdict(list)
    for row in rows:
        groups[row[column]].append(row)
    return groups
