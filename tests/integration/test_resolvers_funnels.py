"""Query.funnel: a small shop's history, counted by hand; what is refused, and what takes too long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from engine.analytics.pool import PROJECT_QUESTIONS, PROJECT_WAITING, AnalyticsPool
from engine.errors import RateLimited, TimedOut
from tests.integration.graphql_support import Gateway, Tenant, open_gateway
from tests.integration.log_support import open_database

FUNNEL = """query ($input: FunnelInput!) { funnel(input: $input) {
  entered completed conversionRate asOf
  steps {
    name eventType count conversionFromPrevious conversionFromStart
    medianSecondsFromPrevious p90SecondsFromPrevious
  }
  groups { value isOther conversionRate steps { count } }
  previous { entered completed previous { entered } }
} }"""
BATCH = "mutation ($input: TrackBatchInput!) { trackBatch(input: $input) { accepted } }"
IDENTIFY = "mutation ($input: IdentifyInput!) { identify(input: $input) { userErrors { code } } }"
START = datetime(2026, 5, 1, tzinfo=UTC)
STEPS = [
    {"eventType": "product.viewed"},
    {"eventType": "cart.updated"},
    {"eventType": "order.placed", "name": "Bought"},
]
MAY = {"since": "2026-05-01T00:00:00Z", "until": "2026-05-31T00:00:00Z"}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"steps": STEPS[:1]}, "input.steps must have 2 to 20 steps."),
    ({"steps": STEPS * 7}, "input.steps must have 2 to 20 steps."),
    ({"steps": [{"eventType": ""}, STEPS[0]]}, "input.steps.0.eventType must have 1 to 200 characters"),
    ({"steps": [{**STEPS[0], "optional": True}, *STEPS[1:]]}, "input.steps.0.optional cannot be true of the first"),
    ({"steps": [STEPS[0], {**STEPS[1], "optional": True}]}, "input.steps.1.optional leaves one step alone"),
    (
        {"steps": [*STEPS, {**STEPS[1], "optional": True}], "order": "UNORDERED"},
        "input.steps.3.optional does not go with UNORDERED",
    ),
    (
        {"steps": [STEPS[0], {**STEPS[1], "where": [{"path": "run.vars.x", "op": "EXISTS"}]}]},
        "input.steps.1.where.0.path",
    ),
    ({"windowSeconds": 0}, "input.windowSeconds must be 1 to"),
    ({"period": "P1D"}, "input.period does not go with since"),
    ({"since": None, "period": "30 days"}, "input.period must be a length of time as in ISO 8601"),
    ({"since": "2026-06-01T00:00:00Z"}, "input.since must begin before the period's end."),
    ({"holdConstant": "profile.traits.plan"}, "input.holdConstant must lead to a value as event.properties.plan"),
    ({"groupBy": "event.eventType"}, "input.groupBy must lead to a value"),
    ({"groupBy": "event.properties.x", "groupLimit": 101}, "input.groupLimit must be 1 to 100."),
    ({"audienceId": "wfl_x"}, "input.audienceId must be the id of an audience."),
    ({"exclude": [{**STEPS[0], "optional": True}]}, "input.exclude.0.optional says nothing"),
]


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Tenant]:
    async with open_gateway(database_url) as gateway:
        yield await _stocked(gateway)


async def _stocked(gateway: Gateway) -> Tenant:
    """Ada, who looked around anonymously, buys after 10 and 20 minutes, Bob after 30 and 60; Eve only looks, twice."""
    tenant = await gateway.tenant()
    for user_id, plan in (("ada", "pro"), ("bob", "free")):
        await tenant.data(IDENTIFY, input={"userId": user_id, "traits": {"plan": plan}})
    events = [
        _event(0, "product.viewed", anonymousId="phone", properties={"source": "mail"}),
        _event(10, "cart.updated", anonymousId="phone"),
        _event(20, "order.placed", anonymousId="phone", userId="ada"),
        _event(0, "product.viewed", userId="bob", properties={"source": "ads"}),
        _event(30, "cart.updated", userId="bob"),
        _event(60, "order.placed", userId="bob", properties={"total": 5}),
        _event(0, "product.viewed", userId="eve", properties={"source": "mail"}),
        _event(50, "product.viewed", userId="eve", properties={"source": "ads"}),
        _event(-60, "product.viewed", userId="bob"),
        _event(-50, "cart.updated", userId="bob"),
    ]
    assert (await tenant.data(BATCH, input={"events": events}))["trackBatch"]["accepted"] == len(events)
    return tenant


def _event(minute: int, event_type: str, **values: Any) -> dict[str, Any]:
    return {"eventType": event_type, "timestamp": (START + timedelta(minutes=minute)).isoformat(), **values}


async def ask(tenant: Tenant, **given: Any) -> Any:
    return (await tenant.data(FUNNEL, input={"steps": STEPS, **MAY, **given}))["funnel"]


def counts(report: Any) -> list[int]:
    return [step["count"] for step in report["steps"]]


async def test_a_report_says_who_came_how_far_and_how_fast(shop: Tenant) -> None:
    report = await ask(shop)

    assert (report["entered"], report["completed"], report["conversionRate"]) == (3, 2, 2 / 3)
    assert report["steps"][0] == {
        "name": "product.viewed",
        "eventType": "product.viewed",
        "count": 3,
        "conversionFromPrevious": 1.0,
        "conversionFromStart": 1.0,
        "medianSecondsFromPrevious": None,
        "p90SecondsFromPrevious": None,
    }
    assert report["steps"][2] == {
        "name": "Bought",
        "eventType": "order.placed",
        "count": 2,
        "conversionFromPrevious": 1.0,
        "conversionFromStart": 2 / 3,
        # 10 and 30 minutes.
        "medianSecondsFromPrevious": 1200.0,
        "p90SecondsFromPrevious": 1680.0,
    }
    assert report["steps"][1]["conversionFromPrevious"] == 2 / 3
    assert report["groups"] == []
    assert report["previous"] is None


async def test_the_first_step_decides_on_the_group_and_small_groups_are_one(shop: Tenant) -> None:
    by_source = await ask(shop, groupBy="event.properties.source")
    by_plan = await ask(shop, groupBy="profile.traits.plan", groupLimit=1)

    # Eve looked twice and came no further: the first time counts.
    assert [(g["value"], g["isOther"], counts(g)) for g in by_source["groups"]] == [
        ("mail", False, [2, 1, 1]),
        ("ads", False, [1, 1, 1]),
    ]
    # Eve has no plan: that is a value as any other, and comes first among equals.
    assert [(g["value"], g["isOther"], counts(g)) for g in by_plan["groups"]] == [
        (None, False, [1, 0, 0]),
        (None, True, [2, 2, 2]),
    ]
    assert [g["conversionRate"] for g in by_plan["groups"]] == [0.0, 1.0]


async def test_the_period_before_is_a_report_of_its_own(shop: Tenant) -> None:
    report = await ask(shop, compare=True, period="P30D", since=None)

    assert report["entered"] == 3
    assert report["previous"] == {"entered": 1, "completed": 0, "previous": None}


async def test_an_audience_and_conditions_on_people_know_who_an_anonymous_person_became(shop: Tenant) -> None:
    where = [{"path": "profile.traits.plan", "op": "EQ", "value": "pro"}]
    saved = await shop.data(
        "mutation ($input: SaveAudienceInput!) { saveAudience(input: $input) { audience { id } } }",
        input={"name": "pro", "where": where},
    )

    members = await ask(shop, audienceId=saved["saveAudience"]["audience"]["id"])
    tested = await ask(shop, steps=[{**STEPS[0], "where": where}, *STEPS[1:]])
    rich = await ask(
        shop, steps=[STEPS[0], {**STEPS[2], "where": [{"path": "event.properties.total", "op": "GT", "value": 4}]}]
    )

    assert counts(members) == counts(tested) == [1, 1, 1]
    assert counts(rich) == [3, 1]


async def test_wildcards_windows_exclusions_and_optional_steps_change_who_counts(shop: Tenant) -> None:
    optional = [STEPS[0], {"eventType": "coupon.used", "optional": True}, STEPS[2]]
    cart = [{"eventType": "cart.updated"}]

    assert counts(await ask(shop, windowSeconds=30 * 60)) == [3, 2, 1]
    assert counts(await ask(shop, steps=[{"eventType": "*"}, {"eventType": "order.*"}])) == [3, 2]
    assert counts(await ask(shop, steps=[STEPS[0], STEPS[2]], order="STRICT")) == [3, 0]
    assert counts(await ask(shop, steps=[STEPS[0], STEPS[2]], exclude=cart)) == [3, 0]
    assert counts(await ask(shop, steps=list(reversed(STEPS)), order="UNORDERED")) == [3, 2, 2]
    skipped = await ask(shop, steps=optional)
    assert counts(skipped) == [3, 0, 2]
    assert (skipped["completed"], skipped["steps"][2]["conversionFromPrevious"]) == (2, 2 / 3)


async def test_twenty_steps_with_everything_are_answered_in_every_order(shop: Tenant) -> None:
    steps = [STEPS[number % 3] for number in range(20)]
    asked = {"steps": steps, "exclude": [{"eventType": "x"}], "groupBy": "profile.traits.plan", "compare": True}
    bought = [{**STEPS[2], "where": [{"path": "event.properties.total", "op": "EXISTS"}]}]

    for order, reached in (("ORDERED", [3, 2, 2]), ("STRICT", [3, 2, 2]), ("UNORDERED", [3, 3, 2])):
        held = await ask(shop, **asked, order=order, holdConstant="event.properties.order")
        assert counts(held) == [0] * 20
        assert counts(await ask(shop, **asked, order=order)) == reached + [0] * 17
        assert counts(await ask(shop, **{**asked, "exclude": bought}, order=order))[:3] == reached


async def test_what_can_never_be_answered_is_refused_with_its_place(shop: Tenant) -> None:
    for given, message in REFUSED:
        response = await shop.run(FUNNEL, input={"steps": STEPS, **MAY, **given})

        assert [error["extensions"]["code"] for error in response["errors"]] == ["BAD_USER_INPUT"], message
        assert response["errors"][0]["message"].startswith(message)
        assert response["data"] == {"funnel": None}


async def test_a_question_that_takes_too_long_says_what_to_ask_instead(database_url: str) -> None:
    project = uuid4()
    async with open_database(database_url, statement_timeout=timedelta(milliseconds=50)) as database:
        pool = AnalyticsPool(database)

        with pytest.raises(TimedOut, match="shorter period"):
            async with pool.connection(project) as connection:
                await connection.fetchval("SELECT pg_sleep(5)")
        async with pool.connection(project) as connection:
            assert await connection.fetchval("SHOW transaction_read_only") == "on"


async def test_questions_of_one_project_take_turns_and_too_many_are_refused(database_url: str) -> None:
    project, release = uuid4(), asyncio.Event()
    async with open_database(database_url) as database:
        pool = AnalyticsPool(database)

        async def ask_slowly() -> None:
            async with pool.connection(project):
                await release.wait()

        tasks = [asyncio.create_task(ask_slowly()) for _ in range(PROJECT_QUESTIONS + PROJECT_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(RateLimited, match="questions"):
            await ask_slowly()
        async with pool.connection(uuid4()) as connection:
            assert await connection.fetchval("SELECT 1") == 1
        release.set()
        await asyncio.gather(*tasks)
