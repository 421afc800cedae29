"""Trends and retention through the API: what they answer, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.graphql_support import Tenant, open_gateway

TRACK = "mutation ($input: TrackBatchInput!) { trackBatch(input: $input) { accepted } }"
TREND = """query ($input: TrendInput!) {
  trend(input: $input) {
    series { group isOther total points { at value } } previous { group isOther total points { at value } }
  }
}"""
RETENTION = "query ($input: RetentionInput!) { retention(input: $input) { cohorts { start size returned rates } } }"
MARCH = {"since": "2026-03-28T00:00:00+01:00", "until": "2026-03-31T00:00:00+02:00", "timezone": "Europe/Berlin"}
"""Three days, the second of them an hour short."""


@pytest.fixture
async def shop(module_database_url: str) -> AsyncIterator[Tenant]:
    async with open_gateway(module_database_url) as gateway:
        yield await gateway.tenant()


async def happened(tenant: Tenant, *events: tuple[str, str, dict[str, Any]]) -> None:
    """Events as (type, timestamp, the rest)."""
    rows = [{"eventType": event_type, "timestamp": at, **rest} for event_type, at, rest in events]
    answer = await tenant.data(TRACK, input={"events": rows})
    assert answer["trackBatch"]["accepted"] == len(rows)


async def trend(tenant: Tenant, event_type: str = "order.placed", **rest: Any) -> Any:
    given = {"event": {"eventType": event_type}, **MARCH, **rest}
    return (await tenant.data(TREND, input=given))["trend"]


async def lines(tenant: Tenant, **rest: Any) -> list[tuple[str | None, bool, list[float], float]]:
    return [flat(series) for series in (await trend(tenant, **rest))["series"]]


def flat(series: Any) -> tuple[str | None, bool, list[float], float]:
    return series["group"], series["isOther"], [point["value"] for point in series["points"]], series["total"]


def order(at: str, user_id: str = "ada", **properties: Any) -> tuple[str, str, dict[str, Any]]:
    return ("order.placed", at, {"userId": user_id, "properties": properties})


async def test_days_are_those_of_the_time_zone_and_none_is_left_out(shop: Tenant) -> None:
    await happened(
        shop,
        order("2026-03-27T22:59:59Z"),  # before the period
        order("2026-03-27T23:00:00Z"),  # the first moment of the 28th
        order("2026-03-28T22:59:59Z"),
        order("2026-03-30T21:59:59Z"),  # the last second of the 30th, in summer time
        order("2026-03-30T22:00:00Z"),  # after the period
    )

    [series] = (await trend(shop))["series"]

    assert series["points"] == [
        {"at": "2026-03-27T23:00:00Z", "value": 2.0},
        {"at": "2026-03-28T23:00:00Z", "value": 0.0},
        {"at": "2026-03-29T22:00:00Z", "value": 1.0},
    ]
    assert (series["group"], series["isOther"], series["total"]) == (None, False, 3.0)


async def test_the_hour_that_clocks_repeat_is_two(shop: Tenant) -> None:
    await happened(shop, order("2026-10-25T00:30:00Z"), order("2026-10-25T01:30:00Z"), order("2026-10-25T01:45:00Z"))

    found = await lines(shop, interval="HOUR", since="2026-10-25T00:00:00Z", until="2026-10-25T03:00:00Z")

    assert found == [(None, False, [1.0, 2.0, 0.0], 3.0)]


async def test_weeks_begin_on_monday_and_months_on_their_first(shop: Tenant) -> None:
    period = {"since": "2026-03-27T00:00:00Z", "until": "2026-04-07T00:00:00Z", "timezone": "UTC"}
    weeks = (await trend(shop, interval="WEEK", **period))["series"][0]["points"]
    months = (await trend(shop, interval="MONTH", **period))["series"][0]["points"]

    assert [point["at"][:10] for point in weeks] == ["2026-03-23", "2026-03-30", "2026-04-06"]
    assert [point["at"][:10] for point in months] == ["2026-03-01", "2026-04-01"]


async def test_measures_of_a_property_pass_over_what_is_no_number(shop: Tenant) -> None:
    amounts: list[Any] = [1, 2.5, 4, "9", None, True, [7]]
    await happened(shop, *(order("2026-03-28T12:00:00Z", amount=amount) for amount in amounts))
    await happened(shop, order("2026-03-30T12:00:00Z", amount=10))

    measured = {
        measure: (await lines(shop, measure=measure, property="event.properties.amount"))[0][2:]
        for measure in ("SUM", "AVG", "MIN", "MAX", "P50", "P90", "P99")
    }

    assert measured == {
        "SUM": ([7.5, 0.0, 10.0], 17.5),
        "AVG": ([2.5, 0.0, 10.0], 4.375),
        "MIN": ([1.0, 0.0, 10.0], 1.0),
        "MAX": ([4.0, 0.0, 10.0], 10.0),
        "P50": ([2.5, 0.0, 10.0], 3.25),
        "P90": ([pytest.approx(3.7), 0.0, 10.0], pytest.approx(8.2)),
        "P99": ([pytest.approx(3.97), 0.0, 10.0], pytest.approx(9.82)),
    }


async def test_somebody_who_was_anonymous_first_is_one_user(shop: Tenant) -> None:
    await happened(
        shop,
        ("order.placed", "2026-03-28T12:00:00Z", {"anonymousId": "phone"}),
        ("order.placed", "2026-03-28T13:00:00Z", {"anonymousId": "phone", "userId": "ada"}),
        ("order.placed", "2026-03-30T12:00:00Z", {"anonymousId": "ada"}),
        ("order.placed", "2026-03-30T13:00:00Z", {"userId": "ada"}),
    )

    # On the 30th two people are called ada: the user, and somebody whose anonymous id is spelt alike.
    assert await lines(shop, measure="UNIQUE_USERS") == [(None, False, [1.0, 0.0, 2.0], 2.0)]


async def test_groups_come_by_their_totals_and_the_rest_is_one(shop: Tenant) -> None:
    plans: list[Any] = ["pro", "pro", "pro", "free", "free", None, None, "team", 1]
    await happened(shop, *(order("2026-03-28T12:00:00Z", plan=plan) for plan in plans))
    await happened(shop, order("2026-03-30T12:00:00Z", plan="free"), order("2026-03-30T12:00:00Z"))

    assert await lines(shop, groupBy="event.properties.plan", groupLimit=3) == [
        ("free", False, [2.0, 0.0, 1.0], 3.0),
        ("pro", False, [3.0, 0.0, 0.0], 3.0),
        (None, False, [2.0, 0.0, 1.0], 3.0),
        (None, True, [2.0, 0.0, 0.0], 2.0),
    ]


async def test_no_groups_where_nothing_happened(shop: Tenant) -> None:
    assert await trend(shop, groupBy="event.properties.plan", compare=True) == {"series": [], "previous": []}


async def test_the_period_before_has_the_groups_of_this_one(shop: Tenant) -> None:
    await happened(
        shop,
        order("2026-03-26T12:00:00Z", plan="old"),
        order("2026-03-26T12:00:00Z", plan="pro"),
        order("2026-03-28T12:00:00Z", plan="pro"),
        order("2026-03-28T12:00:00Z", plan="free"),
    )

    answered = await trend(shop, groupBy="event.properties.plan", groupLimit=2, compare=True)

    assert [flat(each)[0::3] for each in answered["series"]] == [("free", 1.0), ("pro", 1.0)]
    assert [(*flat(each)[::3], each["isOther"]) for each in answered["previous"]] == [
        ("free", 0.0, False),
        ("pro", 1.0, False),
        (None, 1.0, True),
    ]
    # As long as this one: 71 hours, so that it begins an hour into a day.
    assert [point["at"] for point in answered["previous"][0]["points"]] == [
        "2026-03-24T23:00:00Z",
        "2026-03-25T23:00:00Z",
        "2026-03-26T23:00:00Z",
    ]


async def test_a_period_in_which_nothing_happened_is_compared_all_the_same(shop: Tenant) -> None:
    await happened(shop, order("2026-03-26T12:00:00Z"))

    answered = await trend(shop, compare=True)

    assert [flat(each)[1:] for each in answered["series"]] == [(False, [0.0, 0.0, 0.0], 0.0)]
    assert [flat(each)[1:] for each in answered["previous"]] == [(False, [0.0, 1.0, 0.0], 1.0)]


async def test_traits_group_and_conditions_test_the_person_behind_an_anonymous_id(shop: Tenant) -> None:
    document = "mutation ($input: IdentifyInput!) { identify(input: $input) { userErrors { code } } }"
    await shop.data(document, input={"userId": "ada", "anonymousId": "phone", "traits": {"country": "PT"}})
    await happened(
        shop,
        ("order.placed", "2026-03-28T12:00:00Z", {"anonymousId": "phone", "properties": {"amount": 5}}),
        ("order.placed", "2026-03-28T13:00:00Z", {"userId": "bob", "properties": {"amount": 50}}),
    )
    where = [{"path": "profile.traits.country", "op": "EQ", "value": "PT"}]
    amount = [{"path": "event.properties.amount", "op": "GT", "value": 10}]

    assert await lines(shop, groupBy="profile.traits.country") == [
        ("PT", False, [1.0, 0.0, 0.0], 1.0),
        (None, False, [1.0, 0.0, 0.0], 1.0),
    ]
    assert await lines(shop, event={"eventType": "order.*", "where": where}) == [(None, False, [1.0, 0.0, 0.0], 1.0)]
    assert await lines(shop, event={"eventType": "order.*", "where": amount}) == [(None, False, [1.0, 0.0, 0.0], 1.0)]


async def test_an_audience_narrows_a_question_to_its_people(shop: Tenant) -> None:
    document = "mutation ($input: IdentifyInput!) { identify(input: $input) { userErrors { code } } }"
    for user_id, plan in (("ada", "pro"), ("bob", "free")):
        await shop.data(document, input={"userId": user_id, "traits": {"plan": plan}})
    saved = await shop.data(
        "mutation ($input: SaveAudienceInput!) { saveAudience(input: $input) { audience { id } } }",
        input={"name": "Pros", "where": [{"path": "profile.traits.plan", "op": "EQ", "value": "pro"}]},
    )
    audience_id = saved["saveAudience"]["audience"]["id"]
    await happened(
        shop,
        order("2026-03-28T12:00:00Z", "ada"),
        order("2026-03-28T12:00:00Z", "bob"),
        order("2026-03-29T12:00:00Z", "bob"),
        ("order.placed", "2026-03-28T12:00:00Z", {"anonymousId": "ada"}),
    )

    assert await lines(shop, audienceId=audience_id) == [(None, False, [1.0, 0.0, 0.0], 1.0)]
    [first, *_] = await cohorts(shop, audienceId=audience_id)
    assert (first["size"], first["returned"]) == (1, [1, 0, 0])
    refused = await shop.run(TREND, input={"event": {"eventType": "*"}, "audienceId": "aud_" + "0" * 32})
    assert refused["errors"][0]["message"] == "input.audienceId names an audience that this project does not have."


async def cohorts(tenant: Tenant, **rest: Any) -> Any:
    asked = {"startEvent": {"eventType": "order.placed"}, "returnEvent": {"eventType": "order.placed"}, "periods": 3}
    return (await tenant.data(RETENTION, input={**asked, **MARCH, **rest}))["retention"]["cohorts"]


async def test_retention_counts_who_comes_back_in_each_interval(shop: Tenant) -> None:
    await happened(
        shop,
        order("2026-03-28T10:00:00Z", "ada"),
        order("2026-03-28T11:00:00Z", "ada"),
        order("2026-03-28T12:00:00Z", "bob"),
        order("2026-03-29T12:00:00Z", "ada"),
        order("2026-03-30T12:00:00Z", "bob"),
        order("2026-03-31T12:00:00Z", "ada"),  # after the period: no cohort, but ada came back
        order("2026-03-31T12:00:00Z", "cy"),
    )

    assert await cohorts(shop) == [
        {"start": "2026-03-27T23:00:00Z", "size": 2, "returned": [2, 1, 1], "rates": [1.0, 0.5, 0.5]},
        {"start": "2026-03-28T23:00:00Z", "size": 1, "returned": [1, 0, 1], "rates": [1.0, 0.0, 1.0]},
        {"start": "2026-03-29T22:00:00Z", "size": 1, "returned": [1, 0, 0], "rates": [1.0, 0.0, 0.0]},
    ]


async def test_the_cohort_is_who_began_and_only_the_other_event_comes_back(shop: Tenant) -> None:
    await happened(
        shop,
        ("user.invited", "2026-03-28T10:00:00Z", {"anonymousId": "phone"}),
        ("user.invited", "2026-03-29T10:00:00Z", {"userId": "ada"}),
        ("app.opened", "2026-03-29T10:00:00Z", {"userId": "ada"}),
        ("app.opened", "2026-03-30T10:00:00Z", {"userId": "ada", "anonymousId": "phone"}),
        ("app.opened", "2026-03-30T10:00:00Z", {"userId": "bob"}),
    )

    found = await cohorts(shop, startEvent={"eventType": "user.invited"}, returnEvent={"eventType": "app.opened"})

    assert [(each["size"], each["returned"]) for each in found] == [(1, [1, 1, 1]), (1, [1, 1, 0]), (0, [0, 0, 0])]


async def test_intervals_that_have_not_begun_are_left_out(shop: Tenant) -> None:
    asked = {"startEvent": {"eventType": "a"}, "returnEvent": {"eventType": "a"}, "period": "P2D", "periods": 5}

    found = (await shop.data(RETENTION, input=asked))["retention"]["cohorts"]

    assert [each["returned"] for each in found] == [[0, 0, 0], [0, 0], [0]]


A_TREND = {"event": {"eventType": "a"}}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"timezone": "Mars/Olympus"}, "input.timezone must be a time zone of the IANA database, e.g. Europe/Berlin."),
        ({"measure": "SUM"}, "input.property is missing: say what SUM is of, e.g. event.properties.amount."),
        (
            {"property": "event.properties.amount"},
            "input.property does not go with COUNT: leave it out, or ask for SUM, AVG, MIN, MAX or a share.",
        ),
        (
            {"measure": "SUM", "property": "profile.traits.age"},
            "input.property must lead to a value as event.properties.plan does.",
        ),
        ({"groupBy": "event.userId"}, None),
        ({"groupBy": "event.properties.plan", "groupLimit": 101}, "input.groupLimit must be 1 to 100."),
        # A day of minutes is 1,440 points a series.
        ({"period": "P1D", "interval": "MINUTE", "groupBy": "event.properties.plan"}, None),
        ({"since": "2026-03-01T00:00:00Z", "period": "P1D"}, None),
        ({"event": {"eventType": ""}}, None),
        ({"event": {"eventType": "a", "where": [{"path": "run.vars.x", "op": "EXISTS"}]}}, None),
        ({"audienceId": "aud_x"}, "input.audienceId must be the id of an audience."),
    ],
)
async def test_what_can_never_be_answered_is_refused(shop: Tenant, given: dict[str, Any], sentence: str | None) -> None:
    response = await shop.run(TREND, input={**A_TREND, **given})

    [error] = response["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert error["message"].startswith("input.")
    assert sentence in (None, error["message"])


@pytest.mark.parametrize(
    "given",
    [{"periods": 0}, {"periods": 1000}, {"period": "P3000D", "interval": "HOUR"}, {"timezone": ""}],
)
async def test_a_retention_that_can_never_be_answered_is_refused(shop: Tenant, given: dict[str, Any]) -> None:
    asked = {"startEvent": {"eventType": "a"}, "returnEvent": {"eventType": "a"}, **given}
    assert await shop.codes(RETENTION, input=asked) == ["BAD_USER_INPUT"]
