"""What the push senders decide without a network."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from engine.channels import apns_reasons, apns_token, fcm_reasons
from engine.channels.apns import collapse_id_of, request_of
from engine.channels.apns_token import TOKEN_RENEWAL_PAUSE_SECONDS, TOKEN_SECONDS, ProviderToken
from engine.channels.push_limits import custom_data, read_retry_after
from engine.channels.push_message import (
    ApnsCredentials,
    ApnsMessage,
    FcmCredentials,
    PushEnvironment,
    VapidKeys,
    expo_rejection,
    is_expo_token,
)
from engine.channels.web_push import origin_of, topic_of
from engine.dispatch.values import PushNotification

DELIVERY = UUID("0197b4a2-0000-7000-8000-000000000001")
KEY = ec.generate_private_key(ec.SECP256R1())
P8 = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


class Time:
    """Real time that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time()
        monkeypatch.setattr(apns_token.time, "time", lambda: self.now)
        monkeypatch.setattr(apns_token.time, "monotonic", lambda: self.now)


@pytest.fixture
def token() -> ProviderToken:
    return ProviderToken(key=P8, key_id="KEYID12345", team_id="TEAMID1234")


def test_a_provider_token_is_signed_for_the_team_with_the_key(token: ProviderToken) -> None:
    scheme, _, text = token.get_header().partition(" ")

    claims = jwt.decode(text, KEY.public_key(), algorithms=["ES256"])
    assert scheme == "bearer"
    assert claims == {"iss": "TEAMID1234", "iat": pytest.approx(time.time(), abs=5)}
    assert jwt.get_unverified_header(text)["kid"] == "KEYID12345"


def test_a_provider_token_lives_for_fifty_minutes(token: ProviderToken, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Time(monkeypatch)
    first = token.get_header()

    clock.now += TOKEN_SECONDS - 1
    assert token.get_header() == first
    clock.now += 1
    assert token.get_header() != first
    assert TOKEN_SECONDS == 50 * 60


def test_a_provider_token_from_the_future_is_not_used(token: ProviderToken, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Time(monkeypatch)
    first = token.get_header()

    clock.now -= 60  # the machine's clock was set back

    assert token.get_header() != first


def test_a_refused_provider_token_is_replaced_but_not_again_at_once(
    token: ProviderToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Time(monkeypatch)
    first = token.get_header()
    assert token.refuse(first)
    second = token.get_header()
    assert second != first
    assert token.refuse(first)  # told late: there is another one by now
    assert token.get_header() == second

    assert not token.refuse(second)
    assert token.get_header() == second
    clock.now += TOKEN_RENEWAL_PAUSE_SECONDS
    assert token.refuse(second)
    assert token.get_header() not in {first, second}


@pytest.mark.parametrize("collapse_id", ["order-7", "a b", "~", "x" * 64])
def test_a_collapse_id_that_is_a_header_is_sent_as_it_is(collapse_id: str) -> None:
    assert collapse_id_of(collapse_id) == collapse_id


@pytest.mark.parametrize("collapse_id", ["x" * 65, "заказ", "a\r\nb: c", " a", "a ", "a\n", "\x7f"])
def test_a_collapse_id_that_is_no_header_is_sent_as_its_digest(collapse_id: str) -> None:
    made = collapse_id_of(collapse_id)

    assert made is not None
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", made)


@pytest.mark.parametrize("collapse_id", [None, ""])
def test_without_a_collapse_id_nothing_collapses(collapse_id: str | None) -> None:
    assert collapse_id_of(collapse_id) is None


@given(st.text(max_size=200), st.text(max_size=200))
def test_equal_collapse_ids_stay_equal_and_others_differ(first: str, second: str) -> None:
    assert (collapse_id_of(first) == collapse_id_of(second)) is (first == second)
    assert collapse_id_of(first) == collapse_id_of(first)
    if first and second:
        assert (topic_of(first) == topic_of(second)) is (first == second)
        assert 1 <= len(topic_of(first)) <= 32


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, {}),
        ({"a": 1}, {"a": 1}),
        ([1, 2], {"data": [1, 2]}),
        ("text", {"data": "text"}),
        ({"url": "theirs", "deliveryId": "theirs"}, {"url": "theirs"}),
    ],
)
def test_custom_data_is_an_object_with_the_deliverys_id(data: object, expected: dict[str, object]) -> None:
    made = custom_data(DELIVERY, PushNotification(title="a", body="b", data=data))

    assert made == expected | {"deliveryId": "dlv_0197b4a2000070008000000000000001"}


def test_custom_data_cannot_replace_what_apple_reads() -> None:
    message = ApnsMessage(
        delivery_id=DELIVERY,
        device_token="ab" * 32,
        environment=PushEnvironment.PRODUCTION,
        made_at=datetime(2026, 3, 1, tzinfo=UTC),
        credentials=ApnsCredentials(key=P8, key_id="K", team_id="T", bundle_id="b"),
        notification=PushNotification(title="a", body="b", data={"aps": {"badge": 99}}),
    )

    assert b"99" not in request_of(message, 0).body


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("0", timedelta()),
        ("120", timedelta(minutes=2)),
        ("999999999", timedelta(days=1)),
        ("9" * 30, None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_and_bounded(value: str | None, expected: timedelta | None) -> None:
    assert read_retry_after(value) == expected


@pytest.mark.parametrize(
    ("endpoint", "origin"),
    [
        ("https://push.example/a/b?c", "https://push.example"),
        ("https://push.example:443/a", "https://push.example"),
        ("https://PUSH.example:8443/a", "https://push.example:8443"),
        ("http://127.0.0.1:80/a", "http://127.0.0.1"),
    ],
)
def test_an_origin_has_no_default_port(endpoint: str, origin: str) -> None:
    assert origin_of(endpoint) == origin


@pytest.mark.parametrize("endpoint", ["", "push.example", "https://", "https://push.example:x/", "javascript:alert(1)"])
def test_what_is_no_url_has_no_origin(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        origin_of(endpoint)


@pytest.mark.parametrize(
    ("text", "is_expo"),
    [
        ("ExponentPushToken[abc]", True),
        ("ExpoPushToken[abc]", True),
        ("ab" * 32, False),
        ("xExponentPushToken[a]", False),
    ],
)
def test_expo_tokens_are_known_by_their_beginning(text: str, is_expo: bool) -> None:
    assert is_expo_token(text) is is_expo


def test_the_hint_for_expo_tokens_names_both_ways_out() -> None:
    error = expo_rejection().error

    assert error.permanent
    assert error.hint is not None
    assert "getDevicePushTokenAsync" in error.hint
    assert "Expo's own push service" in error.hint


def test_secrets_are_not_printed() -> None:
    credentials = ApnsCredentials(key="SECRET", key_id="K", team_id="T", bundle_id="b")
    message = ApnsMessage(
        delivery_id=DELIVERY,
        device_token="SECRET",
        environment=PushEnvironment.SANDBOX,
        made_at=datetime(2026, 3, 1, tzinfo=UTC),
        credentials=credentials,
    )

    printed = repr(
        (credentials, message, FcmCredentials(service_account="SECRET"), VapidKeys(private_key="SECRET", public_key=""))
    )

    assert "SECRET" not in printed
    assert not message.repeatable


def test_every_reason_has_a_sentence_that_says_what_to_do() -> None:
    hints = [meaning.hint for meaning in apns_reasons.REASONS.values()]
    hints += [meaning.hint for meaning in fcm_reasons.CODES.values()]

    for hint in hints:
        assert hint[0].isupper() or hint.startswith("keyId")
        assert hint.endswith(".")


@given(st.integers(100, 599), st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: raw.decode("latin-1")))
def test_any_answer_of_fcm_means_something(status: int, body: str) -> None:
    refusal = fcm_reasons.refusal_of(status, body)

    assert refusal.meaning.name
    assert refusal.meaning.hint


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["error", "details", "errorCode", "fieldViolations", "field", "status"]), inner
            )
        ),
        max_leaves=20,
    )
)
def test_no_shape_of_an_error_breaks_reading_it(error: object) -> None:
    assert fcm_reasons.refusal_of(400, json.dumps({"error": error})).meaning.permanent in {True, False}
