"""Each blueprint, cloned over the API and switched on, takes people to its end: those who do what it hopes for, and
those who do not. Schedules and audiences are the ones that it brings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.worker_support import START, StandingClock, Store, open_store

CLONE = """mutation ($key: String!) { cloneBlueprint(key: $key) {
  workflow { id isActive } userErrors { code path message }
} }"""
SWITCH_ON = """mutation ($id: ID!) { setWorkflowActive(id: $id, isActive: true) {
  workflow { isActive } userErrors { code path message }
} }"""
BLUEPRINTS = "{ workflowBlueprints { key } }"
ADA = {"firstName": "Ada", "email": "ada@example.org", "phone": "+14155550101"}
BOB = {"firstName": "Bob", "email": "bob@example.org", "phone": "+14155550102"}
HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(weeks=1)

Said = list[tuple[str, str | None]]
"""Label and outcome of each step."""


@pytest.fixture
async def store(module_database_url: str, redis_url: str) -> AsyncIterator[Store]:
    async with open_store(module_database_url, redis_url) as store:
        await open_for(store)
        yield store


async def open_for(store: Store) -> None:
    """Ada and Bob can be reached on every channel."""
    await store.configure()
    await store.identify({"ada": ADA, "bob": BOB})
    await store.add_devices([("token-ada", "ada", "UTC"), ("token-bob", "bob", "UTC")])
    await store.work()


async def clone(store: Store, key: str) -> None:
    """Make a workflow of it, and switch it on."""
    made = (await store.data(CLONE, key=key))["workflow"]
    assert made["isActive"] is False
    assert (await store.data(SWITCH_ON, id=made["id"]))["workflow"]["isActive"] is True


async def track(store: Store, event_type: str, **properties: Any) -> None:
    """The same of Ada and of Bob."""
    await store.track(
        {"eventType": event_type, "userId": user_id, "properties": properties} for user_id in ("ada", "bob")
    )
    await store.work()


async def completed(store: Store) -> dict[str, list[Said]]:
    """Label and outcome of each step of each run, by person, in their order. Every run is over, and well."""
    runs = await store.runs()
    traces = await store.traces([run.run_id for run in runs])
    said: dict[str, list[Said]] = {}
    for run in runs:
        assert (run.status, run.error) == ("COMPLETED", None)
        outcomes = [(step.label, step.outcome and step.outcome.code) for step in traces[run.run_id]]
        said.setdefault(run.user_id or "", []).append(outcomes)
        assert all("Missing" not in (step.detail or "") for step in traces[run.run_id]), traces[run.run_id]
    return said


def received(store: Store) -> tuple[list[str], list[str], list[str]]:
    """Mails by recipient and subject, pushes by device and title, text messages by number; sorted."""
    return (
        sorted(f"{mail.recipient}: {mail.message['Subject']}" for mail in store.smtp.received),
        sorted(f"{push['token']}: {push['notification']['title']}" for push in store.fcm.accepted),
        sorted(text.form["To"] for text in store.twilio.messages),
    )


async def test_all_blueprints_are_tried_here(store: Store) -> None:
    keys = {each["key"] for each in await store.data(BLUEPRINTS)}

    tried = {name.removeprefix("test_blueprint_") for name in globals() if name.startswith("test_blueprint_")}
    assert keys == tried
    assert len(keys) == 8


async def test_blueprint_welcome_series(store: Store) -> None:
    await clone(store, "welcome_series")
    await track(store, "auth.signed_up", setupUrl="https://shop.example/setup")
    await store.identify({"ada": {"onboarded": True}})
    await store.pass_time(4 * DAY)

    assert await completed(store) == {
        "ada": [[("welcome", "sent"), ("first_day", "waited"), ("set_up", "branched"), ("thanks", "sent")]],
        "bob": [
            [
                ("welcome", "sent"),
                ("first_day", "waited"),
                ("set_up", "branched"),
                ("nudge", "sent"),
                ("two_days", "waited"),
                ("tips", "sent"),
            ]
        ],
    }
    assert received(store) == (
        [
            "ada@example.org: Welcome, Ada!",
            "bob@example.org: Three things to try first",
            "bob@example.org: Welcome, Bob!",
        ],
        ["token-ada: You are all set", "token-bob: Almost there"],
        [],
    )


async def test_blueprint_cart_abandonment(store: Store) -> None:
    # Given the blueprint that keeps when people ordered
    await clone(store, "order_confirmation")
    await clone(store, "cart_abandonment")
    await track(store, "cart.updated", itemCount=2, total=40, currency="EUR", cartUrl="https://shop.example/cart")
    await store.pass_time(HOUR / 2)
    await store.track([{"eventType": "order.placed", "userId": "ada", "properties": order("o1")}])
    await store.pass_time(2 * DAY)

    said = await completed(store)
    assert said["ada"][0] == [("one_hour", "waited"), ("ordered", "branched")]
    assert said["bob"] == [
        [
            ("one_hour", "waited"),
            ("ordered", "branched"),
            ("reminder", "sent"),
            ("one_day", "waited"),
            ("ordered_since", "branched"),
            ("last_reminder", "sent"),
        ]
    ]
    mails, pushes, _ = received(store)
    assert "bob@example.org: You left something in your cart" in mails
    assert "token-bob: Still thinking it over?" in pushes
    assert len(mails) == len(pushes) == 2


async def test_blueprint_order_confirmation(store: Store) -> None:
    await clone(store, "order_confirmation")
    await track(store, "order.placed", **order("o7"))

    steps = [("remember_order", "ok"), ("confirmation", "sent"), ("received", "sent")]
    assert await completed(store) == {"ada": [steps], "bob": [steps]}
    mails, pushes, _ = received(store)
    assert mails == [f"{name}@example.org: Your order o7 is confirmed" for name in ("ada", "bob")]
    assert pushes == [f"token-{name}: Order received" for name in ("ada", "bob")]
    [content] = {
        mail.message.get_body(("plain",)).get_content() for mail in store.smtp.received if "ada" in mail.recipient
    }  # type: ignore[union-attr]
    assert "You ordered: 2 × Tea. The total is 12 EUR." in content
    traits = (await store.data('{ profile(userId: "ada") { traits } }'))["traits"]
    assert traits["lastOrderId"] == "o7"


async def test_blueprint_post_purchase_feedback(store: Store) -> None:
    await clone(store, "post_purchase_feedback")
    await track(store, "order.delivered", orderId="o1", reviewUrl="https://shop.example/review")
    await store.pass_time(4 * DAY)
    await store.identify({"ada": {"lastReviewedOrderId": "o1"}})
    await store.pass_time(4 * DAY)

    asked = [("three_days", "waited"), ("ask", "sent"), ("four_days", "waited"), ("answered", "branched")]
    assert await completed(store) == {"ada": [asked], "bob": [[*asked, ("ask_again", "sent")]]}
    assert received(store) == (
        [f"{name}@example.org: How do you like your order?" for name in ("ada", "bob")],
        ["token-bob: One minute for a review?"],
        [],
    )


async def test_blueprint_trial_ending(store: Store) -> None:
    await clone(store, "trial_ending")
    await store.track(
        [{"eventType": "billing.subscription_created", "userId": "ada", "properties": {"status": "active"}}]
    )
    await track(store, "billing.subscription_created", status="trialing", billingUrl="https://shop.example/plans")
    await store.pass_time(12 * DAY)
    await store.identify({"ada": {"subscriptionStatus": "active"}})
    await store.pass_time(3 * DAY)

    warned = [
        ("until_three_days_left", "waited"),
        ("active", "branched"),
        ("three_days_left", "sent"),
        ("until_one_day_left", "waited"),
        ("active_now", "branched"),
    ]
    assert await completed(store) == {
        "ada": [warned],
        "bob": [[*warned, ("one_day_left", "sent"), ("last_call", "sent")]],
    }
    assert received(store) == (
        [f"{name}@example.org: Your trial ends in three days" for name in ("ada", "bob")],
        ["token-bob: Your trial ends tomorrow"],
        ["+14155550102"],
    )


async def test_blueprint_re_engagement(module_database_url: str, redis_url: str) -> None:
    # Given people who were seen just now, by the database's own clock
    began = datetime.now(UTC) + timedelta(minutes=1)
    async with open_store(module_database_url, redis_url, clock=StandingClock(began)) as store:
        await open_for(store)
        await clone(store, "re_engagement")
        [[seen]] = await store.fetch("SELECT max(timestamp) FROM events WHERE project_id = $1")
        tuesday = seen + 30 * DAY + timedelta(days=(1 - seen.weekday() - 30) % 7)
        occurrence = tuesday.replace(hour=10, minute=0, second=0, microsecond=0)
        occurrence += WEEK if occurrence <= seen + 30 * DAY else timedelta()

        # When nobody comes back for half a year
        await store.pass_time(occurrence - began - HOUR)
        early = await store.runs()
        await store.pass_time(HOUR + 90 * DAY)
        at = [run.started_at for run in await store.runs()]
        await store.pass_time(7 * DAY)
        again = [run.started_at for run in await store.runs()]
        await store.pass_time(84 * DAY)

        # Then they are invited on the first Tuesday on which they have been away for a month, and three months later
        assert early == []
        assert at == [occurrence] * 2
        assert again == [*at, *[occurrence + 91 * DAY] * 2]
        steps = [("miss_you", "sent"), ("one_week", "waited"), ("come_back", "sent"), ("three_months", "waited")]
        assert await completed(store) == {"ada": [steps] * 2, "bob": [steps] * 2}
        mails, pushes, _ = received(store)
        assert (
            mails
            == ["ada@example.org: It has been a while, Ada"] * 2 + ["bob@example.org: It has been a while, Bob"] * 2
        )
        assert len(pushes) == 4


async def test_blueprint_birthday(store: Store) -> None:
    await clone(store, "birthday")
    await store.identify({"ada": {"birthday": "1990-05-09"}, "bob": {"birthday": "1991-06-01"}})
    await store.pass_time(4 * DAY)
    early = await completed(store)
    await store.pass_time(26 * DAY)

    steps = [("wish", "sent"), ("card", "sent")]
    assert early == {"ada": [steps]}
    assert await completed(store) == {"ada": [steps], "bob": [steps]}
    assert [run.started_at for run in await store.runs()] == [
        datetime(START.year, 5, 9, 9, tzinfo=UTC),
        datetime(START.year, 6, 1, 9, tzinfo=UTC),
    ]
    mails, pushes, _ = received(store)
    assert mails == ["ada@example.org: Happy birthday, Ada!", "bob@example.org: Happy birthday, Bob!"]
    assert pushes == ["token-ada: Happy birthday! 🎂", "token-bob: Happy birthday! 🎂"]


async def test_blueprint_password_reset(store: Store) -> None:
    await clone(store, "password_reset")
    await store.track([{"eventType": "auth.password_reset_requested", "userId": "bob"}])
    url = "https://shop.example/reset?key=abc"
    await store.track(
        [{"eventType": "auth.password_reset_requested", "userId": "ada", "properties": {"resetUrl": url}}]
    )
    await store.work()

    assert await completed(store) == {"ada": [[("reset", "sent")]]}
    [mail] = store.smtp.received
    assert mail.recipient == "ada@example.org"
    assert f'href="{url}"' in mail.message.get_body(("html",)).get_content()  # type: ignore[union-attr]


def order(order_id: str) -> dict[str, Any]:
    """What an order says of itself."""
    items = [{"name": "Tea", "quantity": 2}]
    url = f"https://shop.example/orders/{order_id}"
    return {"orderId": order_id, "total": 12, "currency": "EUR", "items": items, "orderUrl": url}
