"""A dry run shows what a real run does: for any workflow, person and event, `testRunWorkflow` gives the trace that the
run of the same event has in the end, to the moment, and what such traces say was sent is what arrives.

What differs by its nature is made equal or left out: every provider takes what it is given, and the project has no
model, of which a dry run says so in words of its own. `DRY_RUN_EXAMPLES=300` looks longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from db.suppressions import NewSuppression, insert_suppressions
from engine.consent import ConsentState
from tests.integration.probe_strategies import BOUNCED, MEMBERS, RECEIVER, SETTINGS, TEMPLATE, probes
from tests.integration.run_support import SAVE_WORKFLOW
from tests.integration.worker_support import START, Store, open_store
from tests.peers.receiver import Received as Request
from tests.peers.smtp import Received as Mail

EXAMPLES = int(os.environ.get("DRY_RUN_EXAMPLES", "4"))
PROBES = 10
"""Most that are tried together."""
UPDATE_SETTINGS = """mutation ($input: PushSettingsInput!) {
  updatePushSettings(input: $input) { userErrors { path message } }
}"""
SAVE_TEMPLATE = """mutation ($input: SaveTemplateInput!) {
  saveTemplate(input: $input) { template { id } userErrors { message } }
}"""
SAVE_AUDIENCE = """mutation ($input: SaveAudienceInput!) {
  saveAudience(input: $input) { audience { id } userErrors { path message } }
}"""
SWITCH_OFF = """mutation ($id: ID!) { setWorkflowActive(id: $id, isActive: false) { userErrors { message } } }"""
TRACE = "trace { label type outcome outcomeCode detail startedAt finishedAt input output }"
TRY = f"""mutation ($input: TestRunWorkflowInput!) {{ testRunWorkflow(input: $input) {{
  matched status error {TRACE} userErrors {{ code path message }}
}} }}"""
ADD_DEVICE = """INSERT INTO push_tokens
  (project_id, push_token_id, platform, environment, token, user_id, registered_at)
VALUES ($1, gen_random_uuid(), $2, 'PRODUCTION', $3, $4, now())"""
RUNS = f"""query ($id: ID!) {{ workflowRuns(filter: {{workflowId: $id}}) {{
  edges {{ node {{ status error startedAt {TRACE} }} }}
}} }}"""


class Bench:
    """Where probes are tried: one project, and what its workflows may name."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.tried = 0
        self.seen: Counter[str] = Counter()
        self._known: dict[str, str] = {}

    async def open(self) -> None:
        store = self.store
        await store.configure()
        saved = await store.data(
            SAVE_TEMPLATE,
            input={
                "name": "order",
                "channel": "EMAIL",
                "subject": "{{ event.orderId }}",
                "bodyHtml": "<p>{{ user.name }}, {{ event.thing }} {{ run.workflow }}</p>",
            },
        )
        where = [{"path": "profile.traits.plan", "op": "EQ", "value": "pro"}]
        members = await store.data(SAVE_AUDIENCE, input={"name": "pros", "where": where})
        self._known = {
            TEMPLATE: saved["template"]["id"],
            MEMBERS: members["audience"]["id"],
            RECEIVER: f"{store.receiver.url}/",
        }
        async with store.tenant.gateway.services.database.transaction() as connection:
            await insert_suppressions(
                connection,
                project_id=store.project_id,
                channel="EMAIL",
                suppressions=[NewSuppression(BOUNCED, "BOUNCED")],
                now=store.clock.now(),
            )

    async def compare(self, rules: Mapping[str, Any], given: list[dict[str, Any]]) -> None:
        """Try some probes, then do them for real."""
        store = self.store
        store.clock.at = START
        store.forget_messages()
        await store.data(UPDATE_SETTINGS, input=rules)
        prepared = [await self.prepare(probe) for probe in given]
        await store.work()
        shown = [await self.trial(workflow, sample) for workflow, sample in prepared]
        await store.track(sample for _, sample in prepared)
        await store.pass_time()
        steps: list[Any] = []
        for probe, (workflow, _), dry in zip(given, prepared, shown, strict=True):
            real = await self.real(workflow)
            assert real == dry, f"{json.dumps(probe, default=str)} with {rules}"
            await store.data(SWITCH_OFF, id=workflow)
            steps += [] if real is None else real[2]
        sent = _sent(steps)
        assert _arrived(store, sent) == sent

    async def prepare(self, probe: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """A workflow that is on, somebody new as they are before, and the event that may start it for them."""
        self.tried += 1
        name = f"probe.number_{self.tried}"
        trigger = self._filled({"eventType": name, **probe["trigger"]})
        workflow = {"name": name, "trigger": trigger, "steps": self._filled(probe["steps"]), "isActive": True}
        saved = await self.store.data(SAVE_WORKFLOW, input=workflow)
        sample = {"eventType": name, "properties": probe["properties"], "context": probe["context"]}
        person = probe["person"]
        if person is None:
            return saved["workflow"]["id"], {**sample, "anonymousId": "somebody"}
        user_id = f"person-{self.tried}"
        if person["is_known"]:
            await self.store.identify({user_id: person["traits"]})
            devices = [(f"{user_id}-{n}", user_id, zone) for n, zone in enumerate(person["devices"])]
            await self.store.add_devices(devices)
            for platform in person.get("platforms", ()):
                token = f"{person['tokens']}{user_id}-{platform.lower()}"
                await self.store.fetch(ADD_DEVICE, platform, token, user_id)
            for purpose in sorted(person["refuses"]):
                await self.store.say(user_id, purpose, ConsentState.DENIED)
        return saved["workflow"]["id"], {**sample, "userId": user_id}

    async def trial(self, workflow: str, sample: Mapping[str, Any]) -> Any:
        """Status, error and trace of the dry run; None where no run would start."""
        asked = {name: value for name, value in sample.items() if name != "anonymousId"}
        result = (await self.store.tenant.data(TRY, input={"workflowId": workflow, **asked}))["testRunWorkflow"]
        assert [each["code"] for each in result["userErrors"]] in ([], ["CONSENT"]), result
        if result["status"] is None:
            assert result["trace"] == []
            return None
        return _told(result, self.store.clock.now())

    async def real(self, workflow: str) -> Any:
        """The same of the run, which is over."""
        edges = (await self.store.data(RUNS, id=workflow))["edges"]
        assert len(edges) <= 1
        for edge in edges:
            self.seen.update(f"{step['type']} {step['outcomeCode']}" for step in edge["node"]["trace"])
            return _told(edge["node"], datetime.fromisoformat(edge["node"]["startedAt"]))
        self.seen["no run"] += 1
        return None

    def _filled(self, value: Any) -> Any:
        """With what is the project's own in its places."""
        text = json.dumps(value)
        for placeholder, known in self._known.items():
            text = text.replace(placeholder, known)
        return json.loads(text)


def _told(run: Mapping[str, Any], began: datetime) -> Any:
    return run["status"], run["error"], [_told_step(step, began) for step in run["trace"]]


def _told_step(step: Mapping[str, Any], began: datetime) -> dict[str, Any]:
    times = {name: str(datetime.fromisoformat(step[name]) - began) for name in ("startedAt", "finishedAt")}
    if step["outcome"] != "AI_UNAVAILABLE":
        return {**step, **times}
    # A dry run says that it asks nobody, a run that there is nobody; both say what was missing in the prompt
    missing = (step["detail"] or "").partition("Missing, and left empty")[2]
    return {**step, **times, "detail": missing}


def _sent(steps: Iterable[Mapping[str, Any]]) -> Counter[Any]:
    """What traces say was sent. A push counts once for its text, on however many devices."""
    sent: Counter[Any] = Counter()
    for step in steps:
        given = step["input"]
        match step["type"], step["outcome"]:
            case "SEND_SMS", "SENT":
                sent[_number(given["to"]), given["body"]] += 1
            case "SEND_EMAIL", "SENT":
                text = _words(given["bodyText"]) if "bodyText" in given else None
                sent[given["to"].lower(), _words(given["subject"]), text] += 1
            case "WEBHOOK", "SENT":
                sent[given["method"], given["url"], _text(given["body"]) if "body" in given else None] += 1
            case "SEND_PUSH", "SENT":
                sent[given["title"], given["body"]] = 1
    return sent


def _arrived(store: Store, sent: Collection[Any]) -> Counter[Any]:
    """What came, in the same terms: None is a text that was not given, but made of HTML or of the event."""
    came: Counter[Any] = Counter((text.form["To"], text.form["Body"]) for text in store.twilio.messages)
    made = [*map(_mail, store.smtp.received), *(_request(store, each) for each in store.receiver.requests)]
    came.update(each if each in sent else (*each[:-1], None) for each in made)
    pushes = (push["notification"] for push in store.fcm.accepted)
    return came | Counter({(push.get("title", ""), push.get("body", "")): 1 for push in pushes})


def _mail(mail: Mail) -> tuple[Any, ...]:
    message = mail.message
    text = message.get_body(("plain",))
    return mail.recipient.lower(), _words(message["Subject"]), "" if text is None else _words(text.get_content())


def _request(store: Store, request: Request) -> tuple[Any, ...]:
    text = request.body.decode()
    with contextlib.suppress(ValueError):
        text = _text(json.loads(text))
    return request.method, f"{store.receiver.url}{unquote(request.path)}", text


def _number(written: str) -> str:
    return re.sub(r"[ ()-]", "", written)


def _words(text: str) -> str:
    """Without what folding and line ends do to blanks."""
    return " ".join(text.split())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


@pytest.fixture
async def bench(database_url: str, redis_url: str) -> AsyncIterator[Bench]:
    async with open_store(database_url, redis_url) as store:
        bench = Bench(store)
        await bench.open()
        yield bench


async def test_a_dry_run_has_the_trace_of_the_real_run(bench: Bench) -> None:
    loop = asyncio.get_running_loop()

    # What fails says which of its probes did, sooner than it could be made smaller
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(SETTINGS, st.lists(probes(), min_size=PROBES, max_size=PROBES))
    def agree(rules: dict[str, Any], tried: list[dict[str, Any]]) -> None:
        asyncio.run_coroutine_threadsafe(bench.compare(rules, tried), loop).result()

    await asyncio.to_thread(agree)
    print(f"\n{bench.tried} tried: {dict(bench.seen)}")
    assert len(bench.seen) > 5


async def test_one_that_goes_round_has_the_same_trace(bench: Bench) -> None:
    steps = [
        {"label": "s0", "type": "UPDATE_PROFILE", "config": {"traits": {"n": "{{ trait.n | default: 0 | plus: 1 }}"}}},
        {"label": "s1", "type": "SEND_PUSH", "config": {"title": "{{ trait.n }}", "body": "{{ now }}"}},
        {"label": "s2", "type": "WAIT", "config": {}, "delayMinutes": 25},
        {
            "label": "s3",
            "type": "BRANCH",
            "config": {"condition": {"trait": "n", "value": "4"}, "ifTrue": "end", "ifFalse": "s0"},
        },
    ]
    person = {"traits": {}, "devices": ["Europe/Berlin"], "refuses": set(), "is_known": True}
    probe = {"steps": steps, "trigger": {}, "person": person, "properties": {}, "context": {}}

    await bench.compare({"freqCapPerUserPerHour": 1}, [probe])

    assert bench.seen == {
        "UPDATE_PROFILE ok": 4,
        "SEND_PUSH sent": 2,
        "SEND_PUSH suppressed": 2,
        "WAIT waited": 4,
        "BRANCH branched": 4,
    }


async def test_one_of_a_project_that_can_send_nothing_has_the_same_trace(database_url: str, redis_url: str) -> None:
    steps = [
        {"label": "s0", "type": "SEND_SMS", "config": {"body": "Hi"}},
        {"label": "s1", "type": "SEND_EMAIL", "config": {"to": "{{ user.email }}", "subject": "Hi", "bodyText": "b"}},
        {"label": "s2", "type": "UPDATE_PROFILE", "config": {"traits": {"done": True}}},
    ]
    traits = {"email": "ada@example.org", "phone": "+14155550132"}
    person = {"traits": traits, "devices": [], "refuses": set(), "is_known": True}
    probe = {"steps": steps, "trigger": {}, "person": person, "properties": {}, "context": {}}
    async with open_store(database_url, redis_url) as store:
        bench = Bench(store)

        await bench.compare({}, [probe])

    assert bench.seen == {
        "SEND_SMS skipped-missing-config": 1,
        "SEND_EMAIL skipped-missing-config": 1,
        "UPDATE_PROFILE ok": 1,
    }


async def test_pushes_to_platforms_without_a_provider_have_the_same_trace(database_url: str, redis_url: str) -> None:
    # The second tells that the first does not count against the cap
    rules = {"freqCapPerUserPerHour": 1}
    async with open_store(database_url, redis_url) as store:
        bench = Bench(store)

        for platforms in (["ANDROID"], ["IOS"], ["ANDROID", "IOS"], ["IOS", "ANDROID"]):
            await bench.compare(rules, [_pushes_to(platforms)])

    assert bench.seen == {"SEND_PUSH error": 8}


async def test_pushes_that_one_platform_has_a_provider_for_have_the_same_trace(bench: Bench) -> None:
    rules = {"freqCapPerUserPerHour": 1}

    for platforms in (["IOS", "ANDROID"], ["ANDROID", "IOS"]):
        await bench.compare(rules, [_pushes_to(platforms)])
    assert bench.seen == {"SEND_PUSH sent": 2, "SEND_PUSH suppressed": 2}

    await bench.compare(rules, [_pushes_to(["IOS"])])
    await bench.compare(rules, [_pushes_to(["ANDROID"], tokens="ExponentPushToken[")])
    assert bench.seen["SEND_PUSH error"] == 4


async def test_pushes_that_are_put_off_and_cannot_be_sent_then_have_the_same_trace(
    database_url: str, redis_url: str
) -> None:
    hour = START.hour
    rules = {"quietHoursStartLocal": hour, "quietHoursEndLocal": hour + 2, "deferInQuietHours": True}
    async with open_store(database_url, redis_url) as store:
        bench = Bench(store)

        await bench.compare(rules, [_pushes_to(["ANDROID"])])

    assert bench.seen == {"SEND_PUSH error": 2}


async def test_a_dry_run_makes_no_key_pair_for_web_push(database_url: str, redis_url: str) -> None:
    async with open_store(database_url, redis_url) as store:
        bench = Bench(store)
        workflow, sample = await bench.prepare(_pushes_to(["WEB"]))

        _, _, trace = await bench.trial(workflow, sample)

        assert [step["outcome"] for step in trace] == ["SENT", "SENT"]
        assert await store.fetch("SELECT 1 FROM providers WHERE project_id = $1") == []


def _pushes_to(platforms: list[str], *, tokens: str = "") -> dict[str, Any]:
    """Two pushes, one after the other, to somebody with a device of each platform, whose tokens begin with `tokens`."""
    push = {"type": "SEND_PUSH", "config": {"title": "Hi", "body": "{{ user.id }}"}}
    steps = [{"label": f"s{number}", **push} for number in range(2)]
    person = {"traits": {}, "devices": [], "refuses": set(), "is_known": True}
    person |= {"platforms": platforms, "tokens": tokens}
    return {"steps": steps, "trigger": {}, "person": person, "properties": {}, "context": {}}


async def test_one_that_a_schedule_starts_has_the_same_trace(bench: Bench) -> None:
    store = bench.store
    await store.identify({"ada": {"plan": "pro", "name": "Ada", "phone": "+14155550132"}, "bob": {"plan": "free"}})
    audience = await store.data(
        SAVE_AUDIENCE,
        input={"name": "all", "where": [{"path": "profile.userId", "op": "EXISTS"}]},
    )
    schedule = {"cron": "0 9 * * *", "timezone": "Europe/Berlin"}
    filters = [{"path": "profile.traits.plan", "op": "EQ", "value": "pro"}]
    trigger = {"schedule": schedule, "audienceId": audience["audience"]["id"], "filters": filters}
    steps = [
        {"label": "s0", "type": "SEND_SMS", "config": {"body": "Hi {{ user.name }} {{ event.orderId }}"}},
        {"label": "s1", "type": "WAIT", "config": {}, "delayMinutes": 60},
        {"label": "s2", "type": "WEBHOOK", "config": {"url": f"{store.receiver.url}/{{{{ event.orderId }}}}"}},
    ]
    given = {"name": "Daily", "trigger": trigger, "steps": steps, "isActive": True}
    workflow = (await store.data(SAVE_WORKFLOW, input=given))["workflow"]["id"]
    await store.work()
    store.clock.at = START + timedelta(hours=19)
    sample = {"eventType": "daily", "properties": {"orderId": "not of a schedule"}}

    shown = [await bench.trial(workflow, {**sample, "userId": user_id}) for user_id in ("ada", "bob")]
    await store.pass_time(timedelta(hours=2))

    assert shown == [await bench.real(workflow), None]
    assert bench.seen == {"SEND_SMS sent": 1, "WAIT waited": 1, "WEBHOOK sent": 1}


async def test_numbers_beyond_64_bits_come_out_as_they_are_stored(bench: Bench) -> None:
    # They are sent with an exponent, and stored without
    store = bench.store
    filters = [{"path": "event.properties.n", "op": "LT", "value": 1e23}]
    condition = {"event": "n", "op": "EQ", "value": "{{ event.n }}"}
    config = {"condition": condition, "ifTrue": "s1", "ifFalse": "end"}
    steps = [
        {"label": "s0", "type": "BRANCH", "config": config},
        {"label": "s1", "type": "UPDATE_PROFILE", "config": {"traits": {"n": "{{ event.n }}", "m": 1e22}}},
    ]
    given = {"name": "n", "trigger": {"eventType": "n", "filters": filters}, "steps": steps, "isActive": True}
    workflow = (await store.data(SAVE_WORKFLOW, input=given))["workflow"]["id"]
    sample = {"eventType": "n", "userId": "ada", "properties": {"n": 1e22}}

    shown = await bench.trial(workflow, sample)
    await store.track([sample])
    await store.work()

    assert shown == await bench.real(workflow)
    branched, updated = shown[2]
    assert branched["input"]["condition"] == {"event": "n", "op": "EQ", "value": 1e22}
    assert branched["output"] == {"result": True, "next": "s1"}
    assert (updated["outcome"], updated["input"]) == ("OK", {"traits": {"n": 1e22, "m": 1e22}})
    assert (await store.data('{ profile(userId: "ada") { traits } }'))["traits"] == {"n": 1e22, "m": 1e22}
    [saved] = (await store.data("{ workflows { edges { node { trigger { filters } steps { config } } } } }"))["edges"]
    assert saved["node"]["steps"][1]["config"] == {"traits": {"n": "{{ event.n }}", "m": 1e22}}
    assert saved["node"]["trigger"]["filters"][0]["value"] == 1e23
