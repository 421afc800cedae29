"""Workflows, people and events for hypothesis: whatever can be saved, for people of whom this or that is missing."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from engine.consent import ConsentPurpose
from tests.integration.condition_strategies import JSON, SCALARS

ZONES = ("Asia/Tokyo", "Europe/Berlin", "America/Los_Angeles")
RECEIVER, TEMPLATE, MEMBERS = "RECEIVER/", "TEMPLATE", "MEMBERS"
"""What the test puts something of its project in the place of: its receiver's URL, a template, an audience."""
BOUNCED = "bounced@example.org"

TEXTS = st.sampled_from(
    [
        "plain",
        "Hi {{ user.name }}",
        "{{ trait.nothing }}, {{ event.nothing.at.all }}",
        "{{ event.orderId }}: {{ event.total | plus: 1 }}",
        "{% for item in event.items %}{{ item.name }} {% endfor %}",
        "{% if trait.plan == 'pro' %}{{ trait.done }}{% endif %}",
        "{{ event.thing }} {{ trait.thing }}",
        "{{ profile.traits }} {{ event.properties }}",
        "{{ user.id }} {{ profile.userId }} {{ profile.anonymous }}",
        "{{ event.userId }} {{ event.eventType }} {{ event.module }} {{ event.context }}",
        "{{ run.workflow }} {{ run.startedAt }} {{ run.vars.answer }}",
        "{{ now }} {{ now | date: '%Y-%m-%d %H:%M' }}",
        "{{ trait.nothing }}",
        "<b>{{ user.name }}</b> & more",
    ]
    * 2
    + ["{{ event.orderId | divided_by: 0 }}"]
)
VALUES = st.recursive(
    st.sampled_from(["{{ event.thing }}", "{{ event.total }}", "{{ trait.thing }}", "{{ event.items }}"])
    | TEXTS
    | SCALARS.filter(lambda value: value is not None),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["b", "a", "long name"]), inner),
    max_leaves=4,
)
ADDRESSES = st.sampled_from(
    ["{{ user.email }}", "{{ event.email }}", BOUNCED, "nobody", "{{ trait.nothing }}", "A.B@example.org"]
)
NUMBERS = st.sampled_from(["{{ user.phone }}", "+14155550199", "12", "{{ trait.nothing }}"])
SENDERS = st.sampled_from(["Shop <a@shop.example>", "a@elsewhere.example", "nobody", "{{ trait.nothing }}"])
EMAILS = st.one_of(
    st.fixed_dictionaries({"to": ADDRESSES, "templateId": st.just(TEMPLATE)}, optional={"from": SENDERS}),
    st.fixed_dictionaries(
        {"to": ADDRESSES, "subject": TEXTS, "bodyText": TEXTS},
        optional={"bodyHtml": TEXTS, "from": SENDERS, "replyTo": ADDRESSES},
    ),
)
PUSHES = st.fixed_dictionaries(
    {"title": TEXTS, "body": TEXTS},
    optional={
        "data": st.dictionaries(st.sampled_from(["a", "b"]), VALUES, max_size=2),
        "ignoreQuietHours": st.booleans(),
        "url": st.sampled_from(["https://shop.example/{{ event.orderId }}", "{{ trait.nothing }}"]),
        "badge": st.integers(0, 9),
    },
)
WEBHOOKS = st.fixed_dictionaries(
    {"url": st.sampled_from([f"{RECEIVER}{{{{ event.orderId }}}}", "{{ event.site }}", "{{ trait.nothing }}"])},
    optional={
        "method": st.sampled_from(["PUT", "GET"]),
        "headers": st.dictionaries(st.sampled_from(["X-A", "Authorization"]), st.just("{{ event.orderId }}")),
        "body": VALUES,
    },
)
TRAITS = st.dictionaries(
    st.sampled_from(["plan", "thing", "done", "name", "email", "phone"]), st.none() | VALUES, min_size=1, max_size=3
)
TESTS = st.one_of(
    st.builds(
        lambda source, op, value: {**source, "op": op, "value": value},
        st.sampled_from(
            [{"trait": "plan"}, {"trait": "thing"}, {"event": "total"}, {"path": "event.properties.thing"}]
        ),
        st.sampled_from(["eq", "ne", "gt", "lte", "contains"]),
        st.sampled_from(["pro", 3, 1.5, True, "{{ event.total }}", "{{ trait.plan }}", "{{ trait.nothing }}"]),
    ).filter(lambda test: test["op"] in ("eq", "ne", "contains") or not isinstance(test["value"], bool)),
    st.sampled_from(
        [
            {"path": "profile.consent.sms", "value": "DENIED"},
            {"event": "userId", "op": "exists"},
            {"path": "profile.anonymous", "value": False},
            {"path": "run.vars.answer", "op": "not_exists"},
            {"trait": "thing", "op": "in", "value": ["pro", "{{ event.thing }}"]},
            {"trait": "birthday", "op": "is_anniversary"},
        ]
    ),
)
AI = st.fixed_dictionaries(
    {"prompt": TEXTS, "flavor": st.sampled_from(["generate", "decide", "extract"])},
    optional={"saveTo": st.just("answer")},
)
CONFIGS: dict[str, st.SearchStrategy[Any]] = {
    "SEND_EMAIL": EMAILS,
    "SEND_PUSH": PUSHES,
    "SEND_SMS": st.fixed_dictionaries({"body": TEXTS}, optional={"to": NUMBERS}),
    "WEBHOOK": WEBHOOKS,
    "UPDATE_PROFILE": st.fixed_dictionaries({"traits": TRAITS}),
    "WAIT": st.fixed_dictionaries({}, optional={"reason": TEXTS}),
    "BRANCH": TESTS,
    "AI_ACTION": AI,
}
FILTERS = st.sampled_from(
    [
        {"path": "event.properties.total", "op": "GTE", "value": 2},
        {"path": "profile.traits.plan", "op": "NE", "value": "pro"},
        {"events": {"eventType": "user.*"}, "op": "GTE", "value": 1},
        {"not": {"path": "profile.traits.name", "op": "EXISTS"}},
    ]
)
ASKED = [purpose for purpose in ConsentPurpose if purpose is not ConsentPurpose.ANALYTICS]
"""Who refuses analytics has no event that could start a run; a dry run takes its event as stored."""

PEOPLE = st.fixed_dictionaries(
    {
        "traits": st.fixed_dictionaries(
            {},
            optional={
                "name": st.sampled_from(["Ada", "<Bob> & 'Co'", "🎈"]),
                "email": st.sampled_from(["ada@example.org", BOUNCED, "no address"]),
                "phone": st.sampled_from(["+14155550132", "+1 (415) 555-0132", "123"]),
                "plan": st.sampled_from(["pro", "free", 3]),
                "timezone": st.sampled_from([*ZONES, "nowhere"]),
                "birthday": st.sampled_from(["1990-05-07", "1990-05-08"]),
                "thing": JSON,
            },
        ),
        "devices": st.lists(st.sampled_from([*ZONES, None]), max_size=2),
        "refuses": st.sets(st.sampled_from(ASKED), max_size=2),
        "is_known": st.sampled_from([True, True, True, True, False]),
    }
)
"""`is_known`: an event said who they are before; else the one that starts the workflow is the first."""
PROPERTIES = st.fixed_dictionaries(
    {},
    optional={
        "orderId": st.sampled_from(["o1", "a b/c"]),
        "total": st.sampled_from([1, 3, 4.5, "many"]),
        "items": st.just([{"name": "Tea"}, {"name": "Cup", "n": 2}]),
        "email": st.just("else@example.org"),
        "thing": JSON,
        "eventType": st.just("its own"),
        "site": st.just("http://10.0.0.1/"),
    },
)


@st.composite
def steps(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Up to six, which lead forward."""
    types = draw(st.lists(st.sampled_from(list(CONFIGS)), min_size=1, max_size=6))
    return [draw(_step(name, index, len(types))) for index, name in enumerate(types)]


@st.composite
def _step(draw: st.DrawFn, name: str, index: int, count: int) -> dict[str, Any]:
    targets = st.sampled_from(["end", *(f"s{later}" for later in range(index + 1, count))])
    step: dict[str, Any] = {"label": f"s{index}", "type": name, "config": draw(CONFIGS[name])}
    if name == "BRANCH":
        return {**step, "config": {"condition": step["config"], "ifTrue": draw(targets), "ifFalse": draw(targets)}}
    if draw(st.integers(0, 4)) == 4:
        step["next"] = draw(targets)
    if name == "WAIT" or draw(st.integers(0, 4)) == 4:
        step["delayMinutes"] = draw(st.sampled_from([0, 0.5, 60, 600, 4320]))
    return step


@st.composite
def probes(draw: st.DrawFn) -> dict[str, Any]:
    """A workflow, somebody, and the event that may start it for them."""
    trigger: dict[str, Any] = {}
    if draw(st.integers(0, 5)) == 5:
        trigger["filters"] = [draw(FILTERS)]
    if draw(st.integers(0, 7)) == 7:
        trigger["audienceId"] = MEMBERS
    return {
        "steps": draw(steps()),
        "trigger": trigger,
        "person": None if draw(st.integers(0, 7)) == 7 else draw(PEOPLE),
        "properties": draw(PROPERTIES),
        "context": draw(
            st.sampled_from([{}, {"page": {"url": "/", "b": 1}}, {"traits": {"plan": "new", "name": None}}])
        ),
    }


SETTINGS = st.fixed_dictionaries(
    {
        "quietHoursStartLocal": st.sampled_from([None, 20]),
        "quietHoursEndLocal": st.just(9),
        "deferInQuietHours": st.booleans(),
        "freqCapPerUserPerHour": st.sampled_from([None, 1, 2]),
        "freqCapPerUserPerDay": st.sampled_from([None, 2]),
    }
)
"""Of the project's pushes."""
