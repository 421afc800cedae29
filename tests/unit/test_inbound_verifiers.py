"""Signatures of other services: by their own libraries where there are some, tampered with, replayed, malformed."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook
from stripe import WebhookSignature

from engine.inbound.verifiers import (
    Challenge,
    Genuine,
    InboundVerifier,
    Refusal,
    is_from_twilio,
    secret_problem,
    verify,
    verify_standard,
)

V = InboundVerifier
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
BODY = '{"id":"evt_1","event_id":"Ev1","type":"order.paid","amount":5,"name":"Zoë"}'.encode()
SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()


def unix(at: datetime) -> str:
    return str(int(at.timestamp()))


def digest(secret: str, signed: bytes) -> str:
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def stripe_headers(body: bytes = BODY, *, at: datetime = NOW, secret: str = SECRET) -> dict[str, str]:
    signature = WebhookSignature._compute_signature(f"{unix(at)}.{body.decode()}", secret)
    return {"stripe-signature": f"t={unix(at)},v1={signature},v0=abc"}


def github_headers(body: bytes = BODY, *, at: datetime = NOW, secret: str = SECRET) -> dict[str, str]:
    return {"x-hub-signature-256": f"sha256={digest(secret, body)}", "x-github-delivery": "72d3162e-cc78"}


def slack_headers(body: bytes = BODY, *, at: datetime = NOW, secret: str = SECRET) -> dict[str, str]:
    signed = b"v0:" + unix(at).encode() + b":" + body
    return {"x-slack-signature": f"v0={digest(secret, signed)}", "x-slack-request-timestamp": unix(at)}


def standard_headers(body: bytes = BODY, *, at: datetime = NOW, secret: str = SECRET) -> dict[str, str]:
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": unix(at),
        "webhook-signature": Webhook(secret).sign("msg_1", at, body.decode()),
    }


def hmac_headers(body: bytes = BODY, *, at: datetime = NOW, secret: str = SECRET) -> dict[str, str]:
    return {"x-signature": digest(secret, body)}


SIGNERS: dict[V, Callable[..., dict[str, str]]] = {
    V.STRIPE: stripe_headers,
    V.GITHUB: github_headers,
    V.SLACK: slack_headers,
    V.STANDARD_WEBHOOKS: standard_headers,
    V.HMAC_SHA256: hmac_headers,
}
IDS = {
    V.STRIPE: "evt_1",
    V.GITHUB: "72d3162e-cc78",
    V.SLACK: "Ev1",
    V.STANDARD_WEBHOOKS: "msg_1",
    V.HMAC_SHA256: hashlib.sha256(BODY).hexdigest(),
}
SIGNED_HEADER = {
    V.STRIPE: "stripe-signature",
    V.GITHUB: "x-hub-signature-256",
    V.SLACK: "x-slack-signature",
    V.STANDARD_WEBHOOKS: "webhook-signature",
    V.HMAC_SHA256: "x-signature",
}


def judge(
    verifier: V, headers: dict[str, str], body: bytes = BODY, *, now: datetime = NOW, secret: str = SECRET
) -> Any:
    return verify(verifier, secret=secret, headers=headers, body=body, now=now)


@pytest.mark.parametrize("verifier", list(V))
def test_what_is_signed_is_believed_and_named(verifier: V) -> None:
    assert judge(verifier, SIGNERS[verifier]()) == Genuine(IDS[verifier])


@pytest.mark.parametrize("verifier", list(V))
def test_nothing_that_was_tampered_with_is_believed(verifier: V) -> None:
    headers = SIGNERS[verifier]()
    name = SIGNED_HEADER[verifier]
    flipped = headers[name][:-1] + ("0" if headers[name][-1] != "0" else "1")

    assert judge(verifier, headers, BODY + b" ") is Refusal.FORGED
    assert judge(verifier, headers, b"") is Refusal.FORGED
    assert judge(verifier, SIGNERS[verifier](secret="whsec_" + base64.b64encode(bytes(24)).decode())) is Refusal.FORGED
    if verifier is not V.STRIPE:
        assert judge(verifier, {**headers, name: flipped}) in (Refusal.FORGED, Refusal.MALFORMED)
    assert judge(verifier, {**headers, name: ""}) is Refusal.UNSIGNED
    assert judge(verifier, {**headers, name: "x" * 5000}) is Refusal.UNSIGNED
    assert judge(verifier, {each: value for each, value in headers.items() if each != name}) is Refusal.UNSIGNED
    assert isinstance(judge(verifier, {**headers, name: "é=ü,v1=ß"}), Refusal)


WINDOWS = [
    # verifier, how old, believed; negative: from the future
    (V.STRIPE, 300, True),
    (V.STRIPE, 301, False),
    # Stripe's own libraries take what is ahead of their clock
    (V.STRIPE, -301, True),
    (V.SLACK, 300, True),
    (V.SLACK, 301, False),
    (V.SLACK, -300, True),
    (V.SLACK, -301, False),
    (V.STANDARD_WEBHOOKS, 300, True),
    (V.STANDARD_WEBHOOKS, 301, False),
    (V.STANDARD_WEBHOOKS, -300, True),
    (V.STANDARD_WEBHOOKS, -301, False),
    # no time is signed
    (V.GITHUB, 10**6, True),
    (V.HMAC_SHA256, 10**6, True),
]


@pytest.mark.parametrize(("verifier", "age", "believed"), WINDOWS)
def test_the_window_of_each_service(verifier: V, age: int, believed: bool) -> None:
    verdict = judge(verifier, SIGNERS[verifier](at=NOW - timedelta(seconds=age)))
    assert verdict == (Genuine(IDS[verifier]) if believed else Refusal.STALE)


def test_a_time_cannot_be_made_younger() -> None:
    old = NOW - timedelta(seconds=1000)
    stripe = stripe_headers(at=old)["stripe-signature"].replace(unix(old), unix(NOW))
    assert judge(V.STRIPE, {"stripe-signature": stripe}) is Refusal.FORGED
    assert judge(V.STRIPE, {"stripe-signature": f"{stripe_headers(at=old)['stripe-signature']},t={unix(NOW)}"}) is (
        Refusal.STALE
    )
    slack = {**slack_headers(at=old), "x-slack-request-timestamp": unix(NOW)}
    assert judge(V.SLACK, slack) is Refusal.FORGED
    standard = {**standard_headers(at=old), "webhook-timestamp": unix(NOW)}
    assert judge(V.STANDARD_WEBHOOKS, standard) is Refusal.FORGED


@pytest.mark.parametrize("time", ["", "now", "-1", "1e9", "1" * 13, "٣"])
def test_a_malformed_time_is_refused(time: str) -> None:
    assert judge(V.STRIPE, {"stripe-signature": f"t={time},v1=00"}) is Refusal.MALFORMED
    for verifier, name in ((V.SLACK, "x-slack-request-timestamp"), (V.STANDARD_WEBHOOKS, "webhook-timestamp")):
        assert isinstance(judge(verifier, {**SIGNERS[verifier](), name: time}), Refusal)


def test_another_id_than_the_signed_one_is_refused() -> None:
    assert judge(V.STANDARD_WEBHOOKS, {**standard_headers(), "webhook-id": "msg_2"}) is Refusal.FORGED


def test_one_of_several_signatures_is_enough_and_their_number_is_bounded() -> None:
    stripe, standard = stripe_headers()["stripe-signature"], standard_headers()
    rotated = stripe.replace("v1=", "v1=" + "0" * 64 + ",v1=", 1)
    assert judge(V.STRIPE, {"stripe-signature": rotated}) == Genuine("evt_1")
    signature = standard["webhook-signature"]
    several = {**standard, "webhook-signature": f"v1,AAAA v1a,zzz {signature} stray"}
    assert judge(V.STANDARD_WEBHOOKS, several) == Genuine("msg_1")
    many = {**standard, "webhook-signature": "v1,AAAA " * 16 + signature}
    assert judge(V.STANDARD_WEBHOOKS, many) is Refusal.FORGED


@pytest.mark.parametrize("prefix", ["", "sha256="])
@pytest.mark.parametrize("name", ["x-signature", "x-signature-256"])
def test_a_plain_hmac_is_taken_in_all_its_spellings(name: str, prefix: str) -> None:
    signature = digest(SECRET, BODY)
    for spelled in (signature, signature.upper()):
        assert judge(V.HMAC_SHA256, {name: prefix + spelled}) == Genuine(IDS[V.HMAC_SHA256])


def test_slack_is_answered_its_challenge_once_it_has_signed_it() -> None:
    body = b'{"type":"url_verification","challenge":"3eZbrw1aB","token":"x"}'
    assert judge(V.SLACK, slack_headers(body), body) == Challenge("3eZbrw1aB")
    assert judge(V.SLACK, slack_headers(), body) is Refusal.FORGED


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"id":5}', None),
        (b"[]", None),
        (b"payload=%7B%7D", None),
        (b'{"id":""}', None),
        # what would not fit into a key, or could not be shown, stands as its digest
        (b'{"id":"' + b"x" * 65 + b'"}', hashlib.sha256(b"x" * 65).hexdigest()),
        (b'{"id":"a b"}', hashlib.sha256(b"a b").hexdigest()),
    ],
)
def test_a_body_without_a_usable_id_stands_for_itself(body: bytes, expected: str | None) -> None:
    assert judge(V.STRIPE, stripe_headers(body), body) == Genuine(expected or hashlib.sha256(body).hexdigest())


def test_svix_writes_the_same_under_its_own_names() -> None:
    headers = {name.replace("webhook-", "svix-"): value for name, value in standard_headers().items()}
    assert verify_standard(SECRET, headers, BODY, NOW, prefix="svix") == Genuine("msg_1")
    assert verify_standard(SECRET, headers, BODY, NOW) is Refusal.UNSIGNED


@given(
    st.binary(max_size=64),
    st.sampled_from(list(V)),
    st.dictionaries(st.sampled_from(list(SIGNED_HEADER.values())), st.text(max_size=40)),
)
def test_nobody_without_the_secret_is_believed(body: bytes, verifier: V, headers: dict[str, str]) -> None:
    times = {"x-slack-request-timestamp": unix(NOW), "webhook-timestamp": unix(NOW), "webhook-id": "1"}
    assert isinstance(judge(verifier, {**times, **headers}, body), Refusal)


@pytest.mark.parametrize(
    ("verifier", "secret", "fits"),
    [
        (V.STANDARD_WEBHOOKS, SECRET, True),
        (V.STANDARD_WEBHOOKS, "whsec_not base64", False),
        (V.STANDARD_WEBHOOKS, "", False),
        (V.GITHUB, "anything", True),
        (V.GITHUB, "", False),
        (V.STRIPE, "x" * 513, False),
        (V.SLACK, "a\0b", False),
    ],
)
def test_a_secret_has_to_fit_its_verifier(verifier: V, secret: str, fits: bool) -> None:
    problem = secret_problem(verifier, secret)
    assert (problem is None) == fits
    assert problem is None or not secret or secret not in problem


def test_twilios_own_example_is_believed() -> None:
    # As in TwilioDevEd/api-snippets, security/signature_validation.
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    form = [
        ("CallSid", "CA1234567890ABCDE"),
        ("Caller", "+14158675310"),
        ("Digits", "1234"),
        ("From", "+14158675310"),
        ("To", "+18005551212"),
    ]
    signature = "GvWf1cFY/Q7PnoempGyD5oXAezc="

    assert is_from_twilio("12345", url=url, form=form, signature=signature)
    assert is_from_twilio("12345", url=url, form=form[::-1], signature=signature)
    assert not is_from_twilio("12346", url=url, form=form, signature=signature)
    assert not is_from_twilio("12345", url=url + "&x=1", form=form, signature=signature)
    assert not is_from_twilio("12345", url=url, form=form[1:], signature=signature)
    assert not is_from_twilio("12345", url=url, form=form, signature=None)
    assert not is_from_twilio("12345", url=url, form=form, signature="é")
