"""Blueprints: each can be saved as it is, starts with what it says, and its texts are whole with and without values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from engine.conditions import parse_conditions, unparse_conditions
from engine.egress import Egress
from engine.taxonomy import CANONICAL
from engine.templates.liquid import TemplateValues, render, template_values
from engine.workflows.blueprints import BLUEPRINTS, Blueprint
from engine.workflows.definition import SendEmail, StepType
from engine.workflows.graph import FINISHED, successors
from engine.workflows.validation import read_definition, unparse_definition

NOW = datetime(2026, 5, 1, tzinfo=UTC)
AUDIENCE = "aud_" + "0" * 31 + "1"
OF_THE_HOST_APP = {"cart.updated", "order.placed", "order.delivered", "auth.password_reset_requested"}
"""Names for which the taxonomy has none."""

each_blueprint = pytest.mark.parametrize("blueprint", BLUEPRINTS.values(), ids=BLUEPRINTS.keys())


def test_there_are_eight() -> None:
    assert list(BLUEPRINTS) == [
        "welcome_series",
        "cart_abandonment",
        "order_confirmation",
        "post_purchase_feedback",
        "trial_ending",
        "re_engagement",
        "birthday",
        "password_reset",
    ]


@each_blueprint
def test_a_blueprint_is_a_workflow_that_can_be_saved(blueprint: Blueprint) -> None:
    written = unparse_definition(blueprint.definition)
    if blueprint.audience is not None:
        written["trigger"]["audienceId"] = AUDIENCE
    definition, errors = read_definition(written, egress=Egress())
    assert errors == ()
    assert definition is not None
    trigger = msgspec.structs.replace(definition.trigger, audience_id=None)
    assert msgspec.structs.replace(definition, trigger=trigger) == blueprint.definition


@each_blueprint
def test_a_blueprint_starts_with_a_canonical_event_or_for_an_audience_of_its_own(blueprint: Blueprint) -> None:
    trigger = blueprint.definition.trigger
    if blueprint.audience is None:
        assert trigger.event_type in CANONICAL.keys() | OF_THE_HOST_APP
        return
    assert trigger.schedule is not None
    where = unparse_conditions(blueprint.audience.where)
    read = parse_conditions(where, roots=frozenset({"profile", "events"}), path=("where",))
    assert read == blueprint.audience.where


@each_blueprint
def test_every_step_of_a_blueprint_is_reached_and_every_way_ends(blueprint: Blueprint) -> None:
    steps = blueprint.definition.steps
    reached, ahead = {0}, [0]
    while ahead:
        following = set(successors(steps, ahead.pop())) - reached
        reached |= following
        ahead += following - {FINISHED}
    assert reached == {*range(len(steps)), FINISHED}


FULL: dict[str, Any] = {
    "user": {
        "firstName": "Ada",
        "email": "ada@example.com",
        "phone": "+14155550132",
        "appUrl": "https://a.example/?a=1&b",
    },
    "event": {
        "timestamp": "2026-05-01T00:00:00Z",
        "setupUrl": "https://a.example/setup",
        "cartUrl": "https://a.example/cart",
        "orderUrl": "https://a.example/order",
        "reviewUrl": "https://a.example/review",
        "billingUrl": "https://a.example/billing",
        "resetUrl": "https://a.example/reset",
        "total": 12.5,
        "currency": "EUR",
        "orderId": "A-7",
        "planName": "Pro",
        "items": [{"name": "<b>Tea</b>", "quantity": 2}, {"name": "Cup"}],
    },
}
NOBODY = template_values(now=NOW)


def mails(blueprint: Blueprint) -> list[SendEmail]:
    return [step.config for step in blueprint.definition.steps if isinstance(step.config, SendEmail)]


@each_blueprint
def test_mails_are_whole_with_all_values_and_with_none(blueprint: Blueprint) -> None:
    for mail in mails(blueprint):
        assert mail.subject is not None
        assert mail.body_html is not None
        assert mail.body_text is not None
        for values in (TemplateValues(FULL), NOBODY):
            parts = [
                render(mail.subject, values),
                render(mail.body_html, values, html=True),
                render(mail.body_text, values),
            ]
            assert [part.missing for part in parts] == [(), (), ()]
            assert all(part.text.strip() for part in parts)
            assert 'href=""' not in parts[1].text
            assert parts[1].text.count("<p>") == parts[1].text.count("</p>")
            assert "{" not in "".join(part.text for part in parts)


def test_an_order_is_confirmed_item_by_item() -> None:
    [mail] = mails(BLUEPRINTS["order_confirmation"])
    assert mail.body_text is not None
    assert mail.body_html is not None
    text = render(mail.body_text, TemplateValues(FULL)).text
    assert "You ordered: 2 × <b>Tea</b>, 1 × Cup. The total is 12.5 EUR." in text
    assert text.endswith("See your order: https://a.example/order")
    assert "2 × &lt;b&gt;Tea" in render(mail.body_html, TemplateValues(FULL), html=True).text


def test_links_are_escaped_in_html() -> None:
    [mail] = mails(BLUEPRINTS["re_engagement"])
    html = render(mail.body_html or "", TemplateValues(FULL), html=True).text
    assert '<a href="https://a.example/?a=1&amp;b">See what is new</a>' in html


def test_blueprints_use_what_they_keep() -> None:
    """The cart's reminder ends by a trait that the confirmation of an order sets."""
    [remembered] = [
        step.config.traits  # type: ignore[union-attr]
        for step in BLUEPRINTS["order_confirmation"].definition.steps
        if step.type is StepType.UPDATE_PROFILE
    ]
    tested = {
        step.config.condition.name  # type: ignore[union-attr]
        for step in BLUEPRINTS["cart_abandonment"].definition.steps
        if step.type is StepType.BRANCH
    }
    assert tested == {"lastOrderAt"} <= set(remembered)
