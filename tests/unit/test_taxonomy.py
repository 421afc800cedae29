"""The canonical types, and what a filter's names stand for."""

from __future__ import annotations

import time

import pytest

from engine.taxonomy import ALIASES, CANONICAL, expand_names

EXPECTED = """
auth.signed_up auth.signed_in auth.device_takeover auth.mfa_enrolled auth.signin_storm auth.user_created
email.sent email.delivered email.opened email.clicked email.bounced email.complained
push.send_requested push.scheduled push.sent push.delivered push.failed push.suppressed push.cancelled push.opened
push.clicked push.token_invalidated push.live_activity_started push.live_activity_updated push.live_activity_ended
push.live_activity_invalidated
geofence.entered geofence.exited geofence.dwelled
sms.sent sms.delivered sms.failed
link.created link.opened
attribution.installed
survey.completed survey.response
support.ticket_created support.status_changed support.sla_breached
automation.run_started automation.step_completed automation.run_completed automation.run_failed
automation.promote_failed
billing.subscription_created billing.subscription_renewed billing.subscription_cancelled
csat.detractor
kb.article_viewed
consent.granted consent.revoked consent.reset consent.erasure_completed
audience.entered audience.exited
webhook.endpoint_disabled webhook.delivery_dead_lettered
""".split()  # noqa: SIM905


def test_the_canonical_types_are_the_57_and_one_for_consent_that_is_unknown_again() -> None:
    assert len(EXPECTED) == 57 + 1
    assert list(CANONICAL) == sorted(EXPECTED)


def test_each_has_its_name_its_module_and_a_sentence() -> None:
    for name, each in CANONICAL.items():
        assert each.event_type == name
        assert each.module == name.split(".")[0]
        assert each.description.endswith(".")
    assert len({each.description for each in CANONICAL.values()}) == len(EXPECTED)


def test_an_alias_stands_for_a_canonical_name_and_is_none_itself() -> None:
    assert dict(ALIASES) == {
        "auth.user_signed_up": "auth.signed_up",
        "user.signed_up": "auth.signed_up",
        "promote.failed": "automation.promote_failed",
        "billing.renewed": "billing.subscription_renewed",
        "billing.cancelled": "billing.subscription_cancelled",
    }
    assert set(ALIASES.values()) <= set(CANONICAL)
    assert not set(ALIASES) & set(CANONICAL)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["order.placed"], {"order.placed"}),
        # Either name finds what was sent under the other.
        (["user.signed_up"], {"user.signed_up", "auth.signed_up", "auth.user_signed_up"}),
        (["auth.signed_up"], {"user.signed_up", "auth.signed_up", "auth.user_signed_up"}),
        (["billing.renewed"], {"billing.renewed", "billing.subscription_renewed"}),
        # A wildcard adds only the names that it does not match itself.
        (["auth.*"], {"auth.*", "user.signed_up"}),
        (["promote.*"], {"promote.*", "automation.promote_failed"}),
        (["billing.*"], {"billing.*"}),
        (["*"], {"*"}),
        (["*.promote_failed"], {"*.promote_failed", "promote.failed"}),
        ([], set()),
        ([""], {""}),
    ],
)
def test_names_are_expanded_to_all_names_of_what_they_match(names: list[str], expected: set[str]) -> None:
    assert set(expand_names(names)) == expected


def test_expansion_keeps_order_and_repeats_nothing() -> None:
    expanded = expand_names(["b", "user.signed_up", "auth.signed_up", "b"])
    assert expanded[0] == "b"
    assert len(expanded) == len(set(expanded)) == 4


def test_a_hostile_pattern_costs_no_time() -> None:
    begun = time.perf_counter()
    expand_names(["*a" * 100 + "b", "*" * 200, "*_*" * 60])
    assert time.perf_counter() - begun < 1
