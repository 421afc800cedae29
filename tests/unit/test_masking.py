"""Secrets do not come into the audit log, however they are named or whatever they look like."""

from __future__ import annotations

from typing import Any

import pytest

from engine.masking import MASKED, MASKED_ANEW, mask, mask_changed

KEY = "sk_us_prod_" + "a1B2" * 10 + "xyz"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n-----END PRIVATE KEY-----"
JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"password": "hunter2"}, {"password": MASKED}),
        (
            {"authToken": "x", "apiKey": "y", "x-api-key": "z"},
            {"authToken": MASKED, "apiKey": MASKED, "x-api-key": MASKED},
        ),
        (
            {"secrets": {"a": "x", "b": ["y", 4], "c": None}},
            {"secrets": {"a": MASKED, "b": [MASKED, MASKED], "c": None}},
        ),
        (
            {"headers": {"Authorization": "Bearer x", "X-Team": "7"}},
            {"headers": {"Authorization": MASKED, "X-Team": MASKED}},
        ),
        ({"serviceAccount": {"type": "service_account"}}, {"serviceAccount": {"type": MASKED}}),
        (
            {"steps": [{"config": {"body": {"client_secret": "x"}}}]},
            {"steps": [{"config": {"body": {"client_secret": MASKED}}}]},
        ),
        ({"url": "https://ada:pw@shop.test/hook"}, {"url": f"https://{MASKED}@shop.test/hook"}),
        ({"url": "https://shop.test/h?token=abc&x=1"}, {"url": f"https://shop.test/h?token={MASKED}&x=1"}),
        ({"text": f"use {KEY} here"}, {"text": f"use {MASKED} here"}),
        ({"text": f"{PEM} after"}, {"text": f"{MASKED} after"}),
        ({"text": PEM[:40]}, {"text": MASKED}),
        ({"text": JWT}, {"text": MASKED}),
        ({"text": "whsec_" + "A" * 32}, {"text": MASKED}),
        ({"text": "Bearer abcdefghijklmnop"}, {"text": f"Bearer {MASKED}"}),
        # What tells of a secret, or has but its name, stays.
        ({"prefix": KEY[:17], "pushTokenId": "ptk_1"}, {"prefix": KEY[:17], "pushTokenId": "ptk_1"}),
        ({"secretHint": "whsec_ab…yz", "requireToken": True}, {"secretHint": "whsec_ab…yz", "requireToken": True}),
        ({"hasPassword": "yes", "maxTokens": 500}, {"hasPassword": "yes", "maxTokens": 500}),
        ({"name": "Password reset", "key": "birthday"}, {"name": "Password reset", "key": "birthday"}),
        ({"url": "https://shop.test/a@b?page=2"}, {"url": "https://shop.test/a@b?page=2"}),
        ({"secret": False, "n": 1, "x": None}, {"secret": False, "n": 1, "x": None}),
    ],
)
def test_a_secret_is_masked_and_nothing_else(given: Any, shown: Any) -> None:
    assert mask(given) == shown
    assert mask(mask(given)) == shown


def test_one_sees_which_secrets_changed_and_none_of_them() -> None:
    before, after = mask_changed({"old": "1", "same": "2", "other": "3"}, {"same": "2", "other": "4", "new": "5"})
    assert before == {"old": MASKED, "same": MASKED, "other": MASKED}
    assert after == {"same": MASKED, "other": MASKED_ANEW, "new": MASKED}
    assert mask({"secrets": after}) == {"secrets": after}
