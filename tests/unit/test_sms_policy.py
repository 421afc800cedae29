"""Who may get a text message, what it says and how many segments it takes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.channels.base import Refuse, Suppress
from engine.channels.twilio_errors import MEANINGS, error_of, meaning_of
from engine.consent import ConsentState
from engine.dispatch.recipients import Standing, held_back
from engine.dispatch.values import SmsContent
from engine.dispatch.values import SuppressedReason as R
from engine.sms.accepting import SmsRequest, check_request
from engine.sms.policy import count_segments, render_text
from engine.templates.liquid import template_values

S = ConsentState
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
NOBODY = template_values(now=NOW)

STANDINGS = [
    # consent, is known, suppression, where nothing said is allowed, where it is not
    (S.GRANTED, True, None, None, None),
    (S.UNKNOWN, True, None, None, R.CONSENT),
    (S.DENIED, True, None, R.CONSENT, R.CONSENT),
    (S.REVOKED, True, None, R.CONSENT, R.CONSENT),
    # the person was erased meanwhile
    (S.GRANTED, False, None, R.ERASED, R.ERASED),
    # STOP counts whatever was granted elsewhere
    (S.GRANTED, True, "UNSUBSCRIBED", R.UNSUBSCRIBED, R.UNSUBSCRIBED),
    (S.DENIED, True, "BOUNCED", R.CONSENT, R.CONSENT),
    # a number without a person
    (None, False, None, None, None),
    (None, False, "BOUNCED", R.BOUNCED, R.BOUNCED),
]


@pytest.mark.parametrize(("consent", "is_known", "suppression", "in_us", "in_eu"), STANDINGS)
def test_who_is_held_back(
    consent: S | None, is_known: bool, suppression: str | None, in_us: R | None, in_eu: R | None
) -> None:
    standing = Standing(consent, is_known=is_known, suppression=suppression)

    for unknown_allowed, reason in ((True, in_us), (False, in_eu)):
        expected = None if reason is None else Suppress(reason=reason)
        assert held_back(standing, unknown_allowed=unknown_allowed) == expected


def test_a_text_is_rendered_and_trimmed() -> None:
    values = template_values(now=NOW, variables={"code": "A & B"})
    assert render_text(SmsContent(body=" Code: {{ code }}\n"), values) == "Code: A & B"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("{{ user.name }}", "EMPTY"),
        ("{% for i in (1..2000) %}x{% endfor %}", "TOO_LONG"),
        ("{{ 'x' | no_such_filter }}", "TEMPLATE"),
    ],
)
def test_what_cannot_be_sent_is_refused_for_good(body: str, code: str) -> None:
    refused = render_text(SmsContent(body=body), NOBODY)

    assert isinstance(refused, Refuse)
    assert (refused.error.code, refused.error.permanent) == (code, True)


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        # takes two places each
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("я" * 70, 1),
        ("я" * 71, 2),
        # outside the basic plane: two units
        ("🎉" * 35, 1),
        ("🎉" * 36, 2),
        ("Grüße ñ Δ", 1),
    ],
)
def test_segments_are_counted_as_carriers_do(text: str, segments: int) -> None:
    assert count_segments(text) == segments


@pytest.mark.parametrize("code", sorted(MEANINGS))
def test_every_known_error_says_what_to_do(code: int) -> None:
    error = error_of(code)
    assert (error.code, error.permanent) == (str(code), True)
    assert error.hint
    assert error.message.endswith(".")


def test_an_unknown_error_leads_to_twilios_explanation() -> None:
    assert meaning_of(29999).hint == "See https://www.twilio.com/docs/errors/29999"
    assert error_of(None).code == "TWILIO"


REQUESTS: list[tuple[dict[str, Any], list[tuple[str, ...]]]] = [
    ({"to": ("+14155550132",)}, []),
    ({"user_ids": ("ada",)}, []),
    ({}, [("to",)]),
    ({"to": ("nonsense", "+14155550132", "+1")}, [("to", "0"), ("to", "2")]),
    ({"user_ids": ("", "x" * 257, "a\0")}, [("userIds", "0"), ("userIds", "1"), ("userIds", "2")]),
    ({"user_ids": tuple(map(str, range(1001)))}, [("userIds",)]),
    ({"to": ("+14155550132",) * 1001}, [("to",)]),
    ({"to": ("+14155550132",), "body": "  "}, [("body",)]),
    ({"to": ("+14155550132",), "body": "x" * 1601}, [("body",)]),
    ({"to": ("+14155550132",), "body": "{{ user.name }}" + "x" * 1601}, []),
    ({"to": ("+14155550132",), "body": "{{" + "x" * 16_000}, [("body",)]),
    ({"to": ("+14155550132",), "body": "{% if %}"}, [("body",)]),
    ({"to": ("+14155550132",), "body": "a\0b"}, [("body",)]),
    ({"to": ("+14155550132",), "scheduled_for": NOW - timedelta(days=1)}, []),
    ({"to": ("+14155550132",), "scheduled_for": NOW + timedelta(days=366)}, []),
    ({"to": ("+14155550132",), "scheduled_for": NOW + timedelta(days=367)}, [("scheduledFor",)]),
]


@pytest.mark.parametrize(("given", "paths"), REQUESTS)
def test_what_a_request_can_never_ask_for_is_named(given: dict[str, Any], paths: list[tuple[str, ...]]) -> None:
    errors = check_request(SmsRequest(**{"body": "hi", **given}), now=NOW)
    assert [error.path for error in errors] == [("input", *path) for path in paths]
