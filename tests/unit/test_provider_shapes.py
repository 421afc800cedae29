"""Settings and secrets of every kind of provider: what is taken, what is refused, where, and in which words."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from engine.egress import Egress
from engine.providers.shapes import SHAPES, Given, merge, missing
from engine.providers.values import ProviderKind
from tests.peers.authority import Authority

K = ProviderKind
NOTHING = Given({}, {})
EGRESS = Egress()


@cache
def pem(kind: str) -> str:
    keys: dict[str, Any] = {
        "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "RSA": lambda: rsa.generate_private_key(65537, 2048),
    }
    key = keys[kind]()
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def account(**changes: Any) -> dict[str, Any]:
    return {
        "type": "service_account",
        "project_id": "shop",
        "client_email": "push@shop.iam.gserviceaccount.com",
        "private_key": pem("RSA"),
        "token_uri": "https://oauth2.googleapis.com/token",
        **changes,
    }


def complete(kind: ProviderKind) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and secrets with which a kind is configured."""
    sid = "0123456789abcdef" * 2
    return {
        K.APNS: (
            {"keyId": "ABC123DEFG", "teamId": "DEF123GHIJ", "bundleId": "com.example.shop"},
            {"privateKey": pem("P-256")},
        ),
        K.FCM: ({}, {"serviceAccount": account()}),
        K.WEB_PUSH: ({"subject": "mailto:push@example.com"}, {}),
        K.SMTP: (
            {
                "host": "smtp.example.com",
                "port": 587,
                "security": "STARTTLS",
                "username": "ada",
                "from": "Shop <a@example.com>",
            },
            {"password": "p"},
        ),
        K.RESEND: ({"from": "shop@example.com"}, {"apiKey": "re_1"}),
        K.TWILIO: ({"accountSid": "AC" + sid, "from": "+14155550132"}, {"authToken": "t"}),
        K.OLLAMA: ({"baseUrl": "https://ollama.example.com", "model": "llama3"}, {}),
    }[kind]


def given(kind: ProviderKind, *, settings: object = None, secrets: object = None, stored: Given = NOTHING) -> Any:
    """What is stored after, and per error its path without `input`, and its code."""
    after, errors = merge(kind, stored=stored, settings=settings, secrets=secrets, egress=EGRESS)
    assert all(error.path[0] == "input" for error in errors)
    return after, {error.path[1:]: error.code for error in errors}


@pytest.mark.parametrize("kind", list(K))
def test_what_a_kind_needs_makes_it_configured_and_each_needed_part_is_missed(kind: ProviderKind) -> None:
    settings, secrets = complete(kind)

    after, errors = given(kind, settings=settings, secrets=secrets)

    assert errors == {}
    assert (after.settings, after.secrets) == (settings, secrets)
    assert missing(kind, after.settings, after.secrets) == ()
    for name, part in SHAPES[kind].items():
        without = {key: value for key, value in {**settings, **secrets}.items() if key != name}
        assert (name in missing(kind, without, without)) == part.is_needed or kind in (K.TWILIO, K.SMTP)


WRONG = [
    # kind, settings or secrets, part, value
    (K.APNS, "settings", "keyId", "abc123defg"),
    (K.APNS, "settings", "keyId", "ABC123DEF"),
    (K.APNS, "settings", "teamId", 1234567890),
    (K.APNS, "settings", "bundleId", "com example"),
    (K.APNS, "secrets", "privateKey", "AuthKey_ABC123DEFG.p8"),
    (K.APNS, "secrets", "privateKey", {"pem": "x"}),
    (K.APNS, "settings", "caCertificate", "-----BEGIN CERTIFICATE-----"),
    (K.APNS, "settings", "caCertificate", pem("P-256")),
    (K.WEB_PUSH, "settings", "subject", "push@example.com"),
    (K.WEB_PUSH, "settings", "subject", "http://example.com"),
    (K.WEB_PUSH, "settings", "subject", "mailto:nobody"),
    (K.SMTP, "settings", "host", "smtp://example.com"),
    (K.SMTP, "settings", "host", "127.1"),
    (K.SMTP, "settings", "port", "587"),
    (K.SMTP, "settings", "port", True),
    (K.SMTP, "settings", "port", 65536),
    (K.SMTP, "settings", "security", "SSL"),
    (K.SMTP, "settings", "from", "shop"),
    (K.SMTP, "settings", "from", "a@example.com, b@example.com"),
    (K.SMTP, "settings", "from", "Shop <a@example.com>\r\nBcc: b@example.com"),
    (K.SMTP, "settings", "username", "a\0b"),
    (K.SMTP, "secrets", "password", ""),
    (K.RESEND, "secrets", "apiKey", ["re_1"]),
    (K.RESEND, "secrets", "webhookSecret", "whsec_not base64"),
    (K.RESEND, "secrets", "webhookSecret", "whsec_c2hvcnQ="),
    (K.RESEND, "settings", "baseUrl", "api.resend.com"),
    (K.RESEND, "settings", "baseUrl", "https://user:pw@api.resend.com"),
    (K.RESEND, "settings", "baseUrl", "https://api.resend.com/?a=1"),
    (K.RESEND, "settings", "baseUrl", "ftp://api.resend.com"),
    (K.TWILIO, "settings", "accountSid", "SK" + "0" * 32),
    (K.TWILIO, "settings", "from", "+1 000 000 0000"),
    (K.TWILIO, "settings", "from", "Twelve chars"),
    (K.TWILIO, "settings", "messagingServiceSid", "AC" + "0" * 32),
    (K.OLLAMA, "settings", "model", ""),
    (K.OLLAMA, "settings", "model", "x" * 513),
]


@pytest.mark.parametrize(("kind", "half", "name", "value"), WRONG)
def test_a_part_that_does_not_fit_is_named_and_nothing_of_it_is_repeated(
    kind: ProviderKind, half: str, name: str, value: object
) -> None:
    _, errors = merge(kind, stored=NOTHING, egress=EGRESS, **{"settings": None, "secrets": None, half: {name: value}})

    assert [(error.path, error.code) for error in errors] == [(("input", half, name), "INVALID")]
    if half == "secrets" and isinstance(value, str) and value:
        assert value not in errors[0].message


BLOCKED = [
    (K.APNS, {"productionUrl": "http://api.push.apple.com"}, "productionUrl"),
    (K.APNS, {"sandboxUrl": "https://10.0.0.1"}, "sandboxUrl"),
    (K.FCM, {"endpoint": "https://[::1]"}, "endpoint"),
    (K.RESEND, {"baseUrl": "https://169.254.169.254"}, "baseUrl"),
    (K.TWILIO, {"baseUrl": "https://twilio.internal"}, "baseUrl"),
    (K.OLLAMA, {"baseUrl": "https://localhost:11434"}, "baseUrl"),
    (K.SMTP, {"host": "127.0.0.1", "port": 25}, "host"),
    (K.SMTP, {"host": "localhost"}, "host"),
    (K.SMTP, {"host": "smtp.example.com", "port": 6379}, "port"),
    (K.SMTP, {"host": "smtp.example.com", "port": 443}, "port"),
]


@pytest.mark.parametrize(("kind", "settings", "name"), BLOCKED)
def test_an_address_that_may_not_be_called_is_refused(kind: ProviderKind, settings: dict[str, Any], name: str) -> None:
    assert given(kind, settings=settings)[1] == {("settings", name): "BLOCKED_URL"}


@pytest.mark.parametrize("port", [25, 465, 587, 2525])
def test_a_mail_relay_may_listen_where_mail_relays_do(port: int) -> None:
    assert given(K.SMTP, settings={"host": "Smtp.Example.com.", "port": port})[1] == {}


def test_what_the_operator_allows_may_be_configured() -> None:
    allowing = Egress(allowed="127.0.0.0/8")
    for kind, settings in (
        (K.SMTP, {"host": "127.0.0.1", "port": 40123}),
        (K.TWILIO, {"baseUrl": "http://127.0.0.1:40124"}),
    ):
        assert merge(kind, stored=NOTHING, settings=settings, secrets=None, egress=allowing)[1] == ()


@pytest.mark.parametrize("curve", ["P-384", "RSA"])
def test_an_apns_key_is_of_p256(curve: str) -> None:
    assert given(K.APNS, secrets={"privateKey": pem(curve)})[1] == {("secrets", "privateKey"): "INVALID"}


def test_a_service_account_is_taken_as_an_object_and_as_text() -> None:
    for value in (account(), json.dumps(account())):
        after, errors = given(K.FCM, secrets={"serviceAccount": value})
        assert errors == {}
        assert after.secrets == {"serviceAccount": account()}


@pytest.mark.parametrize(
    ("changes", "path", "code"),
    [
        ({"type": "authorized_user"}, ("type",), "INVALID"),
        ({"project_id": None}, ("project_id",), "INVALID"),
        ({"client_email": 5}, ("client_email",), "INVALID"),
        ({"private_key": "-----BEGIN PRIVATE KEY-----"}, ("private_key",), "INVALID"),
        ({"private_key": pem("P-256")}, ("private_key",), "INVALID"),
        ({"token_uri": "https://metadata.internal/token"}, ("token_uri",), "BLOCKED_URL"),
        ({"more": "x" * 20_000}, (), "INVALID"),
    ],
)
def test_the_wrong_part_of_a_service_account_is_named(
    changes: dict[str, Any], path: tuple[str, ...], code: str
) -> None:
    assert given(K.FCM, secrets={"serviceAccount": account(**changes)})[1] == {
        ("secrets", "serviceAccount", *path): code
    }


@pytest.mark.parametrize("value", ["{", "[]", 5, ["x"]])
def test_what_is_no_service_account_is_refused(value: object) -> None:
    assert given(K.FCM, secrets={"serviceAccount": value})[1] == {("secrets", "serviceAccount"): "INVALID"}


@pytest.mark.parametrize(
    ("kind", "half", "name", "hint"),
    [
        (K.APNS, "settings", "keyID", "Did you mean keyId?"),
        (K.APNS, "settings", "bundle_id", "Did you mean bundleId?"),
        (K.APNS, "settings", "privateKey", "privateKey belongs into secrets."),
        (K.TWILIO, "secrets", "auth_token", "Did you mean authToken?"),
        (K.TWILIO, "secrets", "from", "from belongs into settings."),
        (K.SMTP, "settings", "colour", "it has host, port, security, username, from."),
        (K.WEB_PUSH, "secrets", "privateKey", "made by the server"),
    ],
)
def test_an_unknown_part_is_refused_with_the_one_that_was_meant(
    kind: ProviderKind, half: str, name: str, hint: str
) -> None:
    arguments: dict[str, Any] = {"settings": None, "secrets": None, half: {name: "x"}}
    _, errors = merge(kind, stored=NOTHING, egress=EGRESS, **arguments)

    assert [(error.path, error.code) for error in errors] == [(("input", half, name), "INVALID")]
    assert hint in errors[0].message


def test_everything_that_is_wrong_is_said_at_once() -> None:
    _, errors = given(K.APNS, settings={"keyId": "x", "teamId": "y", "colour": 1}, secrets="secret")

    assert set(errors) == {("settings", "keyId"), ("settings", "teamId"), ("settings", "colour"), ("secrets",)}


def test_absent_parts_stay_and_null_clears() -> None:
    stored = Given(*complete(K.SMTP))

    after, errors = given(K.SMTP, stored=stored, settings={"from": "b@example.com"}, secrets={})
    assert errors == {}
    assert after.settings == {**stored.settings, "from": "b@example.com"}
    assert after.secrets == stored.secrets

    after, errors = given(K.SMTP, stored=stored, settings={"username": None}, secrets={"password": None})
    assert errors == {}
    assert "username" not in after.settings
    assert after.secrets == {}


def test_a_user_without_password_is_not_configured() -> None:
    settings, _ = complete(K.SMTP)
    assert missing(K.SMTP, settings, {}) == ("password",)
    assert missing(K.SMTP, {name: value for name, value in settings.items() if name != "username"}, {}) == ()


def test_twilio_needs_one_of_two_senders() -> None:
    settings, secrets = complete(K.TWILIO)
    without = {"accountSid": settings["accountSid"]}
    assert missing(K.TWILIO, without, secrets) == ("from",)
    assert missing(K.TWILIO, {**without, "messagingServiceSid": "MG" + "0" * 32}, secrets) == ()


@pytest.mark.parametrize("sender", ["+44 20 7946 0958", "12345", "Shop"])
def test_a_text_message_may_come_from_a_number_a_short_code_or_a_name(sender: str) -> None:
    assert given(K.TWILIO, settings={"from": sender})[1] == {}


def test_a_password_is_not_sent_in_the_clear() -> None:
    settings, secrets = complete(K.SMTP)
    assert given(K.SMTP, settings={**settings, "security": "NONE"}, secrets=secrets)[1] == {
        ("settings", "security"): "INVALID"
    }


def test_secrets_do_not_follow_an_address_that_changes() -> None:
    settings, secrets = complete(K.RESEND)
    stored = Given(settings, secrets)
    elsewhere = {"baseUrl": "https://attacker.example.com"}

    assert given(K.RESEND, stored=stored, settings=elsewhere)[1] == {("settings", "baseUrl"): "INVALID"}
    assert given(K.RESEND, stored=stored, settings=elsewhere, secrets={"webhookSecret": None})[1] == {
        ("settings", "baseUrl"): "INVALID"
    }
    assert given(K.RESEND, stored=stored, settings=elsewhere, secrets={"apiKey": "re_2"})[1] == {}
    assert given(K.RESEND, stored=stored, settings=elsewhere, secrets={"apiKey": None})[1] == {}
    # back to the provider's own is another address too
    moved = Given({**settings, **elsewhere}, secrets)
    assert given(K.RESEND, stored=moved, settings={"baseUrl": None})[1] == {("settings", "baseUrl"): "INVALID"}
    assert given(K.RESEND, stored=moved, settings=elsewhere)[1] == {}


def test_secrets_that_cannot_be_read_do_not_follow_either() -> None:
    stored = Given(complete(K.RESEND)[0], {}, holds_others=True)
    elsewhere = {"baseUrl": "https://attacker.example.com"}

    assert given(K.RESEND, stored=stored, settings=elsewhere)[1] == {("settings", "baseUrl"): "INVALID"}
    assert given(K.RESEND, stored=stored, settings=elsewhere, secrets={"apiKey": "re_2"})[1] == {}


def test_an_authority_of_ones_own_is_taken_as_pem() -> None:
    certificate = Authority().ca_pem
    assert given(K.APNS, settings={"caCertificate": certificate})[1] == {}


def test_a_signing_secret_is_taken_as_the_provider_shows_it() -> None:
    secret = "whsec_" + base64.b64encode(bytes(24)).decode()
    assert given(K.RESEND, secrets={"webhookSecret": secret})[1] == {}
