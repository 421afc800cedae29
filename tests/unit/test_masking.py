"""Secrets do not come into the audit log, however they are named or whatever they look like."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.masking import MASKED, MASKED_ANEW, mask, mask_changed

KEY = "sk_us_prod_" + "a1B2" * 10 + "xyz"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n-----END PRIVATE KEY-----"
JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("value", "shown"),
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
def test_a_secret_is_masked_and_nothing_else(value: Any, shown: Any) -> None:
    assert mask(value) == shown
    assert mask(mask(value)) == shown


def test_one_sees_which_secrets_changed_and_none_of_them() -> None:
    before, after = mask_changed({"old": "1", "same": "2", "other": "3"}, {"same": "2", "other": "4", "new": "5"})
    assert before == {"old": MASKED, "same": MASKED, "other": MASKED}
    assert after == {"same": MASKED, "other": MASKED_ANEW, "new": MASKED}
    assert mask({"secrets": after}) == {"secrets": after}


SECRET = "Hunter2"
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("abc /.:", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "url", "name"]), inner, max_size=3)
    ),
    max_leaves=6,
)
HIDDEN = st.one_of(
    st.sampled_from(["password", "clientSecret", "API_KEY", "x-auth-token", "headers", "Cookie", "privateKey"]).flatmap(
        lambda name: st.recursive(
            st.just(SECRET),
            lambda inner: st.lists(inner, max_size=2) | st.fixed_dictionaries({"a": inner}),
            max_leaves=3,
        ).map(lambda value: {name: value})
    ),
    st.sampled_from([f"https://ada:{SECRET}@shop.test", f"x https://shop.test/?a=1&api_key={SECRET}&b=2", PEM]),
)


@given(plain=PLAIN, hidden=HIDDEN, way=st.lists(st.sampled_from(["in a list", "config", "0"]), max_size=5))
def test_wherever_a_secret_stands_it_is_masked_and_what_is_beside_it_stays(plain: Any, hidden: Any, way: Any) -> None:
    value = hidden
    for step in way:
        value = [plain, value] if step == "in a list" else {step: value, "plain": plain}
    shown = mask(value)
    assert SECRET not in json.dumps(shown)
    assert "MIIEvQ" not in json.dumps(shown)
    for step in reversed(way):
        beside, shown = (shown[0], shown[1]) if step == "in a list" else (shown["plain"], shown[step])
        assert beside == plain


@pytest.mark.parametrize("text", ["?" + "token" * 4_000, "a." * 10_000, "eyJ" + "eyJaaaaaaaa-" * 1_000, "://" * 5_000])
def test_a_text_that_looks_like_many_things_is_gone_through_once(text: str) -> None:
    """Whoever may save it may not hold everybody up: without bounds the first two take a second each."""
    assert mask(text) == text
