"""Bundles for hypothesis: every type of step with whatever it takes, as a person might write them, canonical or not."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.integration.condition_strategies import JSON, KEYS, SCALARS, events, json_tests

TEMPLATES = ("Welcome", "Reçu 🎈", "with 'quotes'")
"""Names of templates for email that the projects of tests have."""
AUDIENCES = ("VIPs", "Everybody", "ab", "aB")
URL = "https://hooks.example.com/{{ user.id }}"
TEXTS = st.sampled_from(
    ["Hi {{ user.name }}", "plain", "naïve 🎈", 'a "quote"\nand a line', "{% if event.x %}x{% endif %}"]
)
HEADERS = st.dictionaries(
    st.sampled_from(["X-B", "X-A", "Authorization"]), TEXTS.filter(str.isascii).filter(lambda text: "\n" not in text)
)
MINUTES = st.sampled_from([0, 1, 1.0, 0.5, 60, 1440.0, 527_040])

PUSH = st.fixed_dictionaries(
    {"title": TEXTS, "body": TEXTS},
    optional={
        "url": st.just("https://example.com/a"),
        "data": st.dictionaries(KEYS, SCALARS, max_size=3),
        "badge": st.integers(0, 9),
        "ttlSeconds": st.integers(0, 60),
        "priority": st.sampled_from(["HIGH", "normal"]),
        "ignoreQuietHours": st.booleans(),
        "sound": TEXTS,
        "collapseId": st.just("c"),
    },
)
EMAIL = st.fixed_dictionaries({"to": TEXTS}, optional={"from": TEXTS, "replyTo": TEXTS}).flatmap(
    lambda known: st.one_of(
        st.builds(lambda name: {**known, "template": name}, st.sampled_from(TEMPLATES)),
        st.builds(lambda text: {**known, "subject": "Hello", "bodyHtml": text}, TEXTS),
        st.builds(lambda text: {"bodyText": text, "subject": text, **known}, TEXTS),
    )
)
WEBHOOK = st.fixed_dictionaries(
    {"url": st.just(URL)},
    optional={"method": st.sampled_from(["post", "PUT", "GET"]), "headers": HEADERS, "body": JSON},
)
AI = st.fixed_dictionaries(
    {"prompt": TEXTS, "flavor": st.sampled_from(["generate", "Decide", "extract"])},
    optional={"model": st.just("llama3"), "saveTo": st.just("answer"), "jsonMode": st.booleans()},
)
TRAITS = st.fixed_dictionaries({"traits": st.dictionaries(KEYS, JSON, min_size=1, max_size=3)})
CONFIGS: dict[str, st.SearchStrategy[Any]] = {
    "SEND_EMAIL": EMAIL,
    "email": EMAIL,
    "SEND_PUSH": PUSH,
    "push": PUSH,
    "SEND_SMS": st.fixed_dictionaries({"body": TEXTS}, optional={"to": TEXTS}),
    "WEBHOOK": WEBHOOK,
    "webhook": WEBHOOK,
    "UPDATE_PROFILE": TRAITS,
    "WAIT": st.fixed_dictionaries({}, optional={"reason": TEXTS}),
    "BRANCH": st.none(),
    "AI_ACTION": AI,
}


@st.composite
def conditions(draw: st.DrawFn) -> list[dict[str, Any]]:
    """On events, as a trigger's filters; nested now and then."""
    tests = draw(st.lists(json_tests(draw(events())), max_size=2))
    if tests and draw(st.booleans()):
        tests = [{"any": tests}, {"not": tests[0]}]
    return tests


@st.composite
def wheres(draw: st.DrawFn) -> list[dict[str, Any]]:
    """On people, as an audience's."""
    value = draw(SCALARS.filter(lambda each: each is not None))
    count = {"events": {"eventType": "order.*", "withinSeconds": 60}, "op": "GTE", "value": 2}
    return draw(
        st.lists(
            st.sampled_from([{"path": "profile.traits.plan", "op": "EQ", "value": value}, count, {"all": [count]}]),
            max_size=2,
        )
    )


@st.composite
def steps(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A few, which lead forward only."""
    types = draw(st.lists(st.sampled_from(list(CONFIGS)), min_size=1, max_size=4))
    return [draw(_step(name, index, len(types))) for index, name in enumerate(types)]


@st.composite
def _step(draw: st.DrawFn, name: str, index: int, count: int) -> dict[str, Any]:
    targets = st.sampled_from(["end", *(f"s{later}" for later in range(index + 1, count)), *range(index + 1, count)])
    step: dict[str, Any] = {"config": draw(CONFIGS[name]), "type": name, "label": f"s{index}"}
    if name == "BRANCH":
        tested = {"trait": "plan"} if draw(st.booleans()) else {"path": "event.properties.a"}
        condition = {"value": draw(SCALARS), **tested, **({"op": "eq"} if draw(st.booleans()) else {})}
        return {**step, "config": {"ifFalse": draw(targets), "ifTrue": draw(targets), "condition": condition}}
    if draw(st.booleans()):
        step["next"] = draw(targets)
    if name == "WAIT" or draw(st.booleans()):
        step["delayMinutes"] = draw(MINUTES)
    return step


@st.composite
def triggers(draw: st.DrawFn) -> dict[str, Any]:
    """By event or by schedule."""
    if draw(st.booleans()):
        known: dict[str, Any] = {"schedule": {"cron": "0  9 * * MON"}, "audience": draw(st.sampled_from(AUDIENCES))}
        return {**known, **({"reentry": "once_per_user"} if draw(st.booleans()) else {})}
    named = {"audience": draw(st.sampled_from(AUDIENCES))} if draw(st.booleans()) else {}
    return {**named, "filters": draw(conditions()), "eventType": draw(st.sampled_from(["order.placed", "csat.*"]))}


@st.composite
def bundles(draw: st.DrawFn) -> dict[str, Any]:
    """A whole one; its workflows name templates of `TEMPLATES`, and audiences of its own."""
    names = draw(st.lists(st.sampled_from(["b", "a", "B", "é", "Welcome series"]), max_size=3, unique=True))
    return {
        "workflows": [
            {
                "steps": draw(steps()),
                "trigger": draw(triggers()),
                "name": name,
                **({"isActive": draw(st.booleans())} if draw(st.booleans()) else {}),
                **({"description": draw(TEXTS)} if draw(st.booleans()) else {}),
            }
            for name in names
        ],
        "audiences": [{"where": draw(wheres()), "name": name} for name in AUDIENCES],
    }
