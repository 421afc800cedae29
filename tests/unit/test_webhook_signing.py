"""One request passes every verifier that a customer may use, with one secret and in a rotation with two."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
import subprocess
import time
from base64 import b64decode, b64encode

import pytest
import standardwebhooks
import stripe

from engine.webhooks.signing import SECRET_PREFIX, SignatureScheme, hint_of, make_secret, sign_webhook

BODY = '{"id":"evt_1","type":"order.placed","data":{"properties":{"näme":"Zoë ✓","n":1.0}}}'.encode()
OLD, NEW = make_secret(), make_secret()
EVENT_ID = "evt_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


def signed(*active: str, scheme: SignatureScheme = SignatureScheme.HEX, at: float | None = None) -> dict[str, str]:
    return sign_webhook(
        BODY,
        event_id=EVENT_ID,
        active=active or (OLD,),
        scheme=scheme,
        at=int(time.time() if at is None else at),
    )


def bare(secret: str) -> str:
    return hmac.new(secret.encode(), BODY, hashlib.sha256).hexdigest()


def test_a_known_answer() -> None:
    """Made with openssl: `printf %s "$body" | openssl dgst -sha256 -hmac "$secret"`, and so on."""
    headers = sign_webhook(
        b"{}",
        event_id="evt_1",
        active=("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz",),
        scheme=SignatureScheme.HEX,
        at=1_700_000_000,
    )
    assert headers == KNOWN


KNOWN = {
    "User-Agent": "Sendora-Webhooks/1.0",
    "Content-Type": "application/json",
    "X-Sendora-Signature": "10156f5b585943adb639e46cd13a4b14ac02485f2cdf542d301a406d4378c137",
    "X-Sendora-Signature-256": "sha256=10156f5b585943adb639e46cd13a4b14ac02485f2cdf542d301a406d4378c137",
    "X-Sendora-Timestamp": "1700000000",
    "X-Sendora-Event-Id": "evt_1",
    "Sendora-Signature": "t=1700000000,v1=1b4d0de6530fc26ae3c5628e8ef4ab6022cac85d92e50c83fe6792ea653616e5",
    "webhook-id": "evt_1",
    "webhook-timestamp": "1700000000",
    "webhook-signature": "v1,OB8ps0zasU81o6P2/ucuAR6CjXFpm8TJYBqhlzoJZZ8=",
}


@pytest.mark.parametrize("active", [(OLD,), (OLD, NEW)])
def test_the_hex_of_the_body_is_made_with_the_oldest_secret(active: tuple[str, ...]) -> None:
    assert signed(*active)["X-Sendora-Signature"] == bare(OLD)
    assert signed(*active)["X-Sendora-Signature-256"] == f"sha256={bare(OLD)}"
    prefixed = signed(*active, scheme=SignatureScheme.SHA256_PREFIXED)
    assert prefixed["X-Sendora-Signature"] == f"sha256={bare(OLD)}"
    assert len(bare(OLD)) == 64


@pytest.mark.parametrize("scheme", list(SignatureScheme))
def test_a_scheme_changes_one_header_only(scheme: SignatureScheme) -> None:
    plain, other = signed(OLD, NEW, at=1), signed(OLD, NEW, scheme=scheme, at=1)
    assert {name for name in plain if plain[name] != other[name]} <= {"X-Sendora-Signature"}
    if scheme is SignatureScheme.STRIPE:
        assert other["X-Sendora-Signature"] == other["Sendora-Signature"]


@pytest.mark.parametrize("header", ["Sendora-Signature", "X-Sendora-Signature"])
@pytest.mark.parametrize("active", [(OLD,), (NEW,), (OLD, NEW)])
def test_stripes_library_accepts_it(active: tuple[str, ...], header: str) -> None:
    line = signed(*active, scheme=SignatureScheme.STRIPE)[header]
    assert " " not in line
    for secret in active:
        assert stripe.WebhookSignature.verify_header(BODY.decode(), line, secret, tolerance=300)
        stripe.Webhook.construct_event(BODY, line, secret)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(BODY.decode(), line, make_secret(), tolerance=300)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(BODY.decode() + " ", line, active[0], tolerance=300)


@pytest.mark.parametrize("active", [(OLD,), (NEW,), (OLD, NEW)])
def test_standard_webhooks_library_accepts_it(active: tuple[str, ...]) -> None:
    headers = signed(*active)
    for secret in active:
        standardwebhooks.Webhook(secret).verify(BODY, headers)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(make_secret()).verify(BODY, headers)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(active[0]).verify(BODY + b" ", headers)


def test_what_is_ten_minutes_old_is_refused_so_every_attempt_is_signed_anew() -> None:
    old = signed(at=time.time() - 600)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(BODY.decode(), old["Sendora-Signature"], OLD, tolerance=300)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(OLD).verify(BODY, old)


def test_a_secret_needs_no_padding_and_can_be_told_from_another() -> None:
    secrets = {make_secret() for _ in range(200)}
    assert len(secrets) == 200
    for secret in secrets:
        text = secret.removeprefix(SECRET_PREFIX)
        assert len(b64decode(text, validate=True)) == 24
        assert "=" not in text
    assert hint_of("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz") == "whsec_…MTIz"


VERIFY_IN_NODE = """
const { createHmac, timingSafeEqual } = require("node:crypto");
const { body, headers, secret } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const h = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]));
const raw = Buffer.from(body, "base64");
const equal = (a, b) => a.length === b.length && timingSafeEqual(Buffer.from(a), Buffer.from(b));
const hmac = (key, ...parts) => parts.reduce((sum, part) => sum.update(part), createHmac("sha256", key));

// As the documentation of the hex scheme says.
const hex = hmac(secret, raw).digest("hex");
// As Stripe's documentation says it is done by hand.
const fields = h["sendora-signature"].split(",").map((field) => field.split("="));
const t = fields.find(([name]) => name === "t")[1];
const stripe = hmac(secret, `${t}.`, raw).digest("hex");
const fresh = Math.abs(Date.now() / 1000 - Number(t)) < 300;
// As the Standard Webhooks specification says.
const key = Buffer.from(secret.slice("whsec_".length), "base64");
const standard = hmac(key, `${h["webhook-id"]}.${h["webhook-timestamp"]}.`, raw).digest("base64");

console.log(JSON.stringify({
  hex: equal(hex, h["x-sendora-signature"]),
  prefixed: equal(`sha256=${hex}`, h["x-sendora-signature-256"]),
  stripe: fresh && fields.some(([name, value]) => name === "v1" && equal(value, stripe)),
  standard: h["webhook-signature"].split(" ").some((entry) => equal(entry, `v1,${standard}`)),
  same: h["x-sendora-timestamp"] === t && t === h["webhook-timestamp"] && h["x-sendora-event-id"] === h["webhook-id"],
}));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
@pytest.mark.parametrize(
    ("active", "secret", "bare_too"),
    [((OLD,), OLD, True), ((OLD, NEW), OLD, True), ((OLD, NEW), NEW, False), ((OLD,), NEW, None)],
    ids=["the only one", "the older of two", "the newer of two", "another"],
)
def test_a_customer_verifies_it_with_nodes_crypto(active: tuple[str, ...], secret: str, bare_too: bool | None) -> None:
    given = {"body": b64encode(BODY).decode(), "headers": signed(*active), "secret": secret}
    ran = subprocess.run(
        ["node", "-e", VERIFY_IN_NODE], input=json.dumps(given), capture_output=True, text=True, check=True, timeout=20
    )
    found = json.loads(ran.stdout)
    is_active = secret in active
    assert found == {
        "hex": bool(bare_too),
        "prefixed": bool(bare_too),
        "stripe": is_active,
        "standard": is_active,
        "same": True,
    }
