"""A journey across channels for many people in many time zones: push, an hour, a mail, three days, a text message.

Gateway, follower, runner and dispatcher as in a worker, providers on loopback, and a clock that is moved. What becomes
of each person is said here once more, by nothing of the product but the words of its reasons.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from engine.consent import ConsentPurpose, ConsentState
from engine.workflows.state import StepTrace
from tests.integration.run_support import SAVE_WORKFLOW
from tests.integration.worker_support import START, Store, open_store

PEOPLE = 500
MOST_SECONDS = 60.0
"""Of real time for their four days, on a machine that is busy with other tests; five on one with nothing else to do."""
ZONES = (
    "Pacific/Auckland",
    "Asia/Tokyo",
    "Asia/Kolkata",
    "Europe/Berlin",
    "America/Sao_Paulo",
    "America/New_York",
    "America/Los_Angeles",
    "Pacific/Honolulu",
)
QUIET_FROM, QUIET_UNTIL = 21, 8
"""Hours of the person's day."""
WAIT_FOR_MAIL, WAIT_FOR_TEXT = timedelta(hours=1), timedelta(days=3)
STEPS = [
    {
        "label": "push",
        "type": "SEND_PUSH",
        "config": {"title": "Hi {{ user.name }}", "body": "Order {{ event.orderId }} is placed"},
    },
    {"label": "an hour", "type": "WAIT", "config": {}, "delayMinutes": 60},
    {
        "label": "mail",
        "type": "SEND_EMAIL",
        "config": {"to": "{{ user.email }}", "subject": "Order {{ event.orderId }}", "bodyText": "Hi {{ user.name }}"},
    },
    {"label": "three days", "type": "WAIT", "config": {}, "delayMinutes": 3 * 24 * 60},
    {"label": "text", "type": "SEND_SMS", "config": {"body": "How is {{ event.orderId }}, {{ user.name }}?"}},
]
SETTINGS = """mutation ($input: PushSettingsInput!) { updatePushSettings(input: $input) { userErrors { message } } }"""
REFUSED = "The person has not agreed to this channel. (CONSENT)"
NO_DEVICE = "The person has no active device. (NO_TOKENS)"
NO_NUMBER = "to is empty for this person."
MESSAGE_ID = re.compile(rb"^Message-ID: (\S+)", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Person:
    """One of those who order, numbered. Out of ten some have said no to something, or lack something."""

    number: int

    @property
    def user_id(self) -> str:
        return f"person-{self.number:03}"

    @property
    def traits(self) -> dict[str, Any]:
        known = {"name": f"N{self.number}", "email": f"{self.user_id}@customers.example"}
        return known if self.kind == 4 else {**known, "phone": f"+1415555{1000 + self.number}"}

    @property
    def kind(self) -> int:
        return self.number % 10

    @property
    def zone(self) -> str:
        return ZONES[self.number // 10 % len(ZONES)]

    @property
    def refuses(self) -> ConsentPurpose | None:
        """What they have said no to."""
        purposes = (ConsentPurpose.WORKFLOWS, ConsentPurpose.PUSH, ConsentPurpose.EMAIL, ConsentPurpose.SMS)
        return purposes[self.kind] if self.kind < len(purposes) else None

    @property
    def devices(self) -> int:
        return {5: 0, 6: 2}.get(self.kind, 1)

    def pushed_at(self, at: datetime) -> datetime:
        """Now, or when their quiet hours are over."""
        local = at.astimezone(ZoneInfo(self.zone))
        if QUIET_UNTIL <= local.hour < QUIET_FROM:
            return at
        days = timedelta(days=local.hour >= QUIET_FROM)
        return (local + days).replace(hour=QUIET_UNTIL, minute=0).astimezone(at.tzinfo)

    def steps(self) -> Iterator[tuple[str, str, str | None, datetime, datetime]]:
        """Label, outcome, detail, and from when to when."""
        at = START
        if self.refuses is ConsentPurpose.PUSH or not self.devices:
            yield "push", "suppressed", REFUSED if self.devices else NO_DEVICE, at, at
        else:
            at = self.pushed_at(START)
            yield "push", "sent", None, START, at
        yield "an hour", "waited", None, at, (at := at + WAIT_FOR_MAIL)
        is_refused = self.refuses is ConsentPurpose.EMAIL
        yield "mail", "suppressed" if is_refused else "sent", REFUSED if is_refused else None, at, at
        yield "three days", "waited", None, at, (at := at + WAIT_FOR_TEXT)
        if "phone" not in self.traits:
            yield "text", "skipped-missing-config", NO_NUMBER, at, at
        else:
            is_refused = self.refuses is ConsentPurpose.SMS
            yield "text", "suppressed" if is_refused else "sent", REFUSED if is_refused else None, at, at


def said_of(step: StepTrace) -> tuple[str, str | None, str | None, datetime, datetime | None]:
    """A step of a trace, as `Person.steps` says it."""
    return step.label, step.outcome and step.outcome.code, step.detail, step.started_at, step.finished_at


async def open_for(store: Store, people: list[Person]) -> None:
    """Everything before the orders come."""
    await store.configure()
    quiet = {"quietHoursStartLocal": QUIET_FROM, "quietHoursEndLocal": QUIET_UNTIL}
    await store.data(SETTINGS, input=quiet)
    given = {"name": "Journey", "trigger": {"eventType": "order.placed"}, "steps": STEPS, "isActive": True}
    await store.data(SAVE_WORKFLOW, input=given)
    await store.identify({each.user_id: each.traits for each in people})
    await store.add_devices(
        (f"token-{each.user_id}-{number}", each.user_id, each.zone) for each in people for number in range(each.devices)
    )
    for each in people:
        if each.refuses is not None:
            await store.say(each.user_id, each.refuses, ConsentState.DENIED)
    await store.work()


async def test_five_hundred_people_in_eight_time_zones_go_through_four_days_in_seconds(
    database_url: str, redis_url: str
) -> None:
    people = [Person(number) for number in range(PEOPLE)]
    entering = {each.user_id: each for each in people if each.refuses is not ConsentPurpose.WORKFLOWS}
    async with open_store(database_url, redis_url) as store:
        await open_for(store, people)
        began = time.monotonic()

        await store.track(
            {
                "id": f"order-{each.number}",
                "eventType": "order.placed",
                "userId": each.user_id,
                "properties": {"orderId": f"o{each.number}"},
            }
            for each in people
        )
        await store.pass_time(timedelta(days=5))

        seconds = time.monotonic() - began
        runs = await store.runs()
        traces = await store.traces([run.run_id for run in runs])
        keys = await distinct_keys(store)

    # Everybody who agreed went through once, and each step of theirs is as it has to be, to the moment
    assert sorted(run.user_id or "" for run in runs) == sorted(entering)
    assert Counter(run.status for run in runs) == {"COMPLETED": len(entering)}
    for run in runs:
        person = entering[run.user_id or ""]
        assert [said_of(step) for step in traces[run.run_id]] == list(person.steps()), person
    # And what arrived outside is what the traces say, each message once
    outcomes = [(person, label, code) for person in entering.values() for label, code, *_ in person.steps()]
    sent = Counter(
        {
            "push": sum(person.devices for person, label, code in outcomes if (label, code) == ("push", "sent")),
            "mail": sum((label, code) == ("mail", "sent") for _, label, code in outcomes),
            "text": sum((label, code) == ("text", "sent") for _, label, code in outcomes),
        }
    )
    assert keys == sent
    assert (len(store.fcm.accepted), len(store.smtp.received), len(store.twilio.messages)) == tuple(sent.values())
    assert {push["notification"]["body"] for push in store.fcm.accepted} <= {
        f"Order o{n} is placed" for n in range(PEOPLE)
    }
    print(f"\n{PEOPLE} people, {sum(sent.values())} messages: {seconds:.1f} s")
    assert seconds < MOST_SECONDS


async def distinct_keys(store: Store) -> Counter[str]:
    """Messages that arrived, by the key that would be the same if one were sent again."""
    return Counter(
        push=len({push["data"]["deliveryId"] for push in store.fcm.accepted}),
        mail=len({MESSAGE_ID.findall(mail.content)[0] for mail in store.smtp.received}),
        text=len({(text.form["To"], text.form["Body"]) for text in store.twilio.messages}),
    )
