"""The one decision about pushes: consent, tokens, quiet hours, caps, variant, locale, in this order."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.consent import ConsentState
from engine.dispatch.values import (
    LiveActivity,
    LocalizedPush,
    PushContent,
    PushNotification,
    PushVariant,
    SuppressedReason,
)
from engine.push.locales import choose_locale, is_locale
from engine.push.policy import (
    HoldBack,
    PolicyCase,
    PolicyToken,
    PushRules,
    PutOff,
    Send,
    choose_variant,
    decide,
)
from engine.push.quiet_hours import QuietHours, find_zone, quiet_until

MESSAGE = UUID("019365a0-0000-7000-8000-000000000001")
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MIDNIGHT = datetime(2026, 6, 1, 0, tzinfo=UTC)
NIGHT = QuietHours(22, 7)
HELLO = PushNotification(title="Hello", body="there")
PHONE = PolicyToken()


def content(**changes: Any) -> PushContent:
    return PushContent(**{"message_id": MESSAGE, "push": HELLO, **changes})


def case(**changes: Any) -> PolicyCase:
    defaults: dict[str, Any] = {
        "content": content(),
        "person": "ada",
        "consent": ConsentState.GRANTED,
        "unknown_allowed": False,
        "tokens": [PHONE],
        "rules": PushRules(),
        "now": NOON,
    }
    return PolicyCase(**{**defaults, **changes})


def held(reason: SuppressedReason) -> tuple[HoldBack, ...]:
    return (HoldBack(reason),)


# ── the order ──

STRICT = PushRules(quiet_hours=NIGHT, defers=False, cap_per_day=1, cap_per_hour=1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # Everything says no: consent is the reason.
        ({"consent": ConsentState.REVOKED, "tokens": []}, held(SuppressedReason.CONSENT)),
        # No device outranks the hour and the caps.
        ({"tokens": []}, held(SuppressedReason.NO_TOKENS)),
        # Quiet hours outrank the caps.
        ({}, held(SuppressedReason.QUIET_HOURS)),
        ({"content": content(ignore_quiet_hours=True)}, held(SuppressedReason.FREQUENCY_CAP)),
        ({"now": NOON}, held(SuppressedReason.FREQUENCY_CAP)),
        ({"now": NOON, "sent_in_hour": 0, "sent_in_day": 0}, (Send(HELLO),)),
    ],
    ids=["consent", "tokens", "quiet", "ignored", "day", "fine"],
)
def test_what_says_no_first_is_the_reason(changes: dict[str, Any], expected: object) -> None:
    defaults = {"rules": STRICT, "now": MIDNIGHT, "sent_in_hour": 1, "sent_in_day": 1}
    assert decide(case(**{**defaults, **changes})) == expected


@pytest.mark.parametrize(
    ("state", "unknown_allowed", "is_sent"),
    [
        (ConsentState.GRANTED, False, True),
        (ConsentState.UNKNOWN, True, True),
        (ConsentState.UNKNOWN, False, False),
        (ConsentState.DENIED, True, False),
        (ConsentState.REVOKED, True, False),
    ],
)
def test_denied_and_revoked_always_block_and_unknown_follows_the_project(
    state: ConsentState, unknown_allowed: bool, is_sent: bool
) -> None:
    for asked in (content(), content(is_test=True), content(ignore_quiet_hours=True)):
        [decision] = decide(case(content=asked, consent=state, unknown_allowed=unknown_allowed))
        assert isinstance(decision, Send) is is_sent


# ── quiet hours ──

ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # moves its clock by half an hour
    "America/Sao_Paulo",  # moved it at midnight
    "America/Havana",  # moves it at midnight
    "Africa/Casablanca",  # moves it for Ramadan
    "Asia/Kathmandu",  # is 5:45 off
    "Pacific/Apia",  # skipped 30 December 2011
    "Pacific/Chatham",  # moves it at 2:45
    "UTC",
]
INSTANTS = st.integers(0, 10_000_000).map(lambda minutes: datetime(2008, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes))
CHANGES = [
    ("Europe/Berlin", datetime(2026, 3, 29, 0, 30, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 8, 6, 30, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, 5, 30, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 14, 45, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 15, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 2, 18, 1, 30, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 11, 4, 2, 30, tzinfo=UTC)),
    ("Pacific/Apia", datetime(2011, 12, 30, 9, 30, tzinfo=UTC)),
]


def check_quiet(zone_name: str, now: datetime, window: QuietHours) -> None:
    """The definition, minute by minute: it is quiet until the first minute whose hour is not in the window."""
    zone = ZoneInfo(zone_name)
    until = quiet_until(window, zone=zone, now=now)
    minute = now
    while window.holds(minute.astimezone(zone).hour):
        minute = (minute + timedelta(minutes=1)).replace(second=0, microsecond=0)
    assert until == (None if minute == now else minute)


@given(
    zone=st.sampled_from(ZONES),
    now=INSTANTS,
    start=st.integers(0, 23),
    end=st.integers(0, 23),
)
def test_quiet_ends_at_the_first_moment_whose_hour_is_not_in_the_window(
    zone: str, now: datetime, start: int, end: int
) -> None:
    check_quiet(zone, now, QuietHours(start, end))


@given(
    change=st.sampled_from(CHANGES),
    minutes=st.integers(-26 * 60, 3 * 60),
    start=st.integers(0, 23),
    end=st.integers(0, 23),
)
def test_quiet_hours_are_right_around_every_change_of_the_clock(
    change: tuple[str, datetime], minutes: int, start: int, end: int
) -> None:
    zone, at = change
    check_quiet(zone, at + timedelta(minutes=minutes), QuietHours(start, end))


@pytest.mark.parametrize(
    ("zone", "now", "window", "until"),
    [
        # An ordinary night: 23:00 to 7:00 in summer time.
        ("Europe/Berlin", "2026-06-01T21:00Z", NIGHT, "2026-06-02T05:00Z"),
        # The night that loses an hour is seven hours and a half from here, not eight and a half.
        ("Europe/Berlin", "2026-03-28T21:30Z", NIGHT, "2026-03-29T05:00Z"),
        # The night that gains one.
        ("Europe/Berlin", "2026-10-24T20:30Z", NIGHT, "2026-10-25T06:00Z"),
        # The end, 2:00, is skipped: quiet ends when the clock jumps from 2:00 to 3:00.
        ("Europe/Berlin", "2026-03-29T00:30Z", QuietHours(22, 2), "2026-03-29T01:00Z"),
        # The last hour, 2:00 to 3:00, comes twice: quiet both times.
        ("Europe/Berlin", "2026-10-25T00:30Z", QuietHours(22, 3), "2026-10-25T02:00Z"),
        ("America/New_York", "2026-03-08T06:30Z", QuietHours(22, 2), "2026-03-08T07:00Z"),
        ("America/New_York", "2026-11-01T05:30Z", QuietHours(22, 2), "2026-11-01T07:00Z"),
        # Half an hour: 2:00 is skipped to 2:30; 1:30 to 2:00 comes twice.
        ("Australia/Lord_Howe", "2026-10-03T15:00Z", QuietHours(22, 2), "2026-10-03T15:30Z"),
        ("Australia/Lord_Howe", "2026-04-04T14:45Z", QuietHours(22, 2), "2026-04-04T15:30Z"),
        # Midnight itself is skipped, and 23:00 to midnight comes twice.
        ("America/Sao_Paulo", "2018-11-04T02:30Z", QuietHours(20, 0), "2018-11-04T03:00Z"),
        ("America/Sao_Paulo", "2018-02-18T01:30Z", QuietHours(20, 0), "2018-02-18T03:00Z"),
        # A calendar that skips a day.
        ("Pacific/Apia", "2011-12-30T09:30Z", NIGHT, "2011-12-30T17:00Z"),
        # The window's first moment is in it, its end is not.
        ("UTC", "2026-06-01T22:00Z", NIGHT, "2026-06-02T07:00Z"),
        ("UTC", "2026-06-01T07:00Z", NIGHT, None),
        ("UTC", "2026-06-01T21:59Z", NIGHT, None),
        # The same hour twice is no window.
        ("UTC", "2026-06-01T05:30Z", QuietHours(5, 5), None),
    ],
)
def test_known_nights(zone: str, now: str, window: QuietHours, until: str | None) -> None:
    expected = None if until is None else datetime.fromisoformat(until)
    assert quiet_until(window, zone=ZoneInfo(zone), now=datetime.fromisoformat(now)) == expected


def test_each_device_has_its_own_night() -> None:
    tokens = [PolicyToken(timezone="Europe/Berlin"), PolicyToken(timezone="America/New_York"), PolicyToken()]
    rules = PushRules(quiet_hours=NIGHT, default_zone="Asia/Tokyo")
    now = datetime(2026, 6, 1, 21, tzinfo=UTC)
    assert decide(case(tokens=tokens, rules=rules, now=now)) == (
        PutOff(datetime(2026, 6, 2, 5, tzinfo=UTC)),
        Send(HELLO),
        PutOff(datetime(2026, 6, 1, 22, tzinfo=UTC)),
    )


def test_what_is_put_off_is_held_back_where_the_project_says_so() -> None:
    rules = PushRules(quiet_hours=NIGHT, defers=False)
    assert decide(case(rules=rules, now=MIDNIGHT)) == held(SuppressedReason.QUIET_HOURS)


def test_a_zone_that_is_none_any_more_is_as_good_as_none() -> None:
    rules = PushRules(quiet_hours=NIGHT, default_zone="America/New_York")
    assert decide(case(tokens=[PolicyToken(timezone="Mars/Olympus")], rules=rules, now=MIDNIGHT)) == (Send(HELLO),)


@pytest.mark.parametrize("asked", [content(is_test=True), content(ignore_quiet_hours=True)], ids=["test", "urgent"])
def test_tests_and_what_ignores_quiet_hours_are_sent_at_night(asked: PushContent) -> None:
    [decision] = decide(case(content=asked, rules=PushRules(quiet_hours=NIGHT), now=MIDNIGHT))
    assert isinstance(decision, Send)


@pytest.mark.parametrize("name", ["Europe/Berlin", "UTC", "America/Argentina/Buenos_Aires"])
def test_zones_are_names_of_the_ianas(name: str) -> None:
    assert find_zone(name) is not None


@pytest.mark.parametrize("name", ["", "Berlin", "../../etc/passwd", "/etc/localtime", "Europe/Berlin\0", "ü", "E" * 65])
def test_other_names_are_no_zones(name: str) -> None:
    assert find_zone(name) is None


# ── caps ──


@pytest.mark.parametrize(
    ("rules", "hour", "day", "is_sent"),
    [
        (PushRules(cap_per_hour=2), 1, 9, True),
        (PushRules(cap_per_hour=2), 2, 2, False),
        (PushRules(cap_per_day=3), 2, 2, True),
        (PushRules(cap_per_day=3), 0, 3, False),
        (PushRules(cap_per_hour=5, cap_per_day=3), 0, 3, False),
        (PushRules(), 1000, 1000, True),
    ],
)
def test_caps_are_for_the_rolling_hour_and_day(rules: PushRules, hour: int, day: int, is_sent: bool) -> None:
    [decision] = decide(case(rules=rules, sent_in_hour=hour, sent_in_day=day))
    assert decision == (Send(HELLO) if is_sent else HoldBack(SuppressedReason.FREQUENCY_CAP))


def test_what_counts_already_is_not_held_back_by_itself() -> None:
    [decision] = decide(case(rules=PushRules(cap_per_hour=1), sent_in_hour=1, sent_in_day=1, is_counted=True))
    assert decision == Send(HELLO)


def test_a_test_and_a_live_activitys_update_are_held_back_by_no_cap_and_no_hour() -> None:
    update = LiveActivity(action="UPDATE", attributes_type="Ride", activity_id="1")
    for asked in (content(is_test=True), PushContent(message_id=MESSAGE, live_activity=update)):
        [decision] = decide(case(content=asked, rules=STRICT, now=MIDNIGHT, sent_in_hour=9, sent_in_day=9))
        assert isinstance(decision, Send)
    start = LiveActivity(action="START", attributes_type="Ride", activity_id="1")
    asked = PushContent(message_id=MESSAGE, live_activity=start)
    assert decide(case(content=asked, rules=STRICT, now=MIDNIGHT)) == held(SuppressedReason.QUIET_HOURS)


# ── variants ──


def variants(*weights: int) -> tuple[PushVariant, ...]:
    return tuple(
        PushVariant(f"v{index}", weight, PushNotification(title=f"title {index}", body="body"))
        for index, weight in enumerate(weights)
    )


@given(
    message_id=st.uuids(), person=st.text(min_size=1, max_size=50), weights=st.lists(st.integers(0, 100), max_size=5)
)
def test_a_variant_is_stable_and_never_one_without_weight(message_id: UUID, person: str, weights: list[int]) -> None:
    given_variants = variants(*weights)
    chosen = choose_variant(given_variants, message_id=message_id, person=person)
    assert chosen == choose_variant(given_variants, message_id=message_id, person=person)
    assert (chosen is None) == (sum(weights) == 0)
    assert chosen is None or chosen.weight > 0


def test_variants_are_chosen_as_often_as_their_weights_say() -> None:
    people = 20_000
    found = Counter(
        chosen.name
        for index in range(people)
        if (chosen := choose_variant(variants(1, 2, 7), message_id=MESSAGE, person=f"user-{index}")) is not None
    )
    for name, share in (("v0", 0.1), ("v1", 0.2), ("v2", 0.7)):
        # Five standard deviations: a fair draw misses this once in a million and more.
        assert abs(found[name] / people - share) < 5 * (share * (1 - share) / people) ** 0.5


def test_two_messages_draw_anew() -> None:
    drawn = {
        tuple(
            chosen.name
            for message_id in messages
            if (chosen := choose_variant(variants(1, 1), message_id=message_id, person=f"user-{index}")) is not None
        )
        for messages in [(uuid4(), uuid4())]
        for index in range(200)
    }
    assert drawn == {("v0", "v0"), ("v0", "v1"), ("v1", "v0"), ("v1", "v1")}


def test_all_devices_of_a_person_get_one_variant() -> None:
    decisions = decide(case(content=content(variants=variants(1, 1, 1)), tokens=[PHONE] * 20))
    assert len(set(decisions)) == 1


@given(person=st.text(min_size=1, max_size=20))
def test_a_variant_that_was_chosen_before_stays_whatever_the_weights(person: str) -> None:
    asked = content(variants=variants(0, 1, 1))
    [decision] = decide(case(content=asked, person=person, tokens=[PolicyToken(variant="v0")]))
    assert isinstance(decision, Send)
    assert decision.variant == "v0"


# ── locales ──

TAGS = ["de", "pt-BR", "zh-Hant", "EN_gb"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("de", "de"),
        ("de-AT", "de"),
        ("DE_at", "de"),
        ("pt_br", "pt-BR"),
        ("pt", None),
        ("pt-PT", None),
        ("zh-Hant-TW", "zh-Hant"),
        ("zh-Hans", None),
        ("en-GB", "EN_gb"),
        ("deu", None),
        (None, None),
    ],
)
def test_the_exact_tag_then_the_language_then_the_default(wanted: str | None, found: str | None) -> None:
    assert choose_locale(TAGS, wanted) == found


def test_the_exact_tag_comes_before_the_language_whatever_their_order() -> None:
    assert choose_locale(["de", "de-AT"], "de-at") == "de-AT"
    assert choose_locale(["de-AT", "de"], "de-at") == "de-AT"


@pytest.mark.parametrize("text", ["de", "pt-BR", "zh_Hant_TW", "sl-rozaj-biske-1994"])
def test_tags(text: str) -> None:
    assert is_locale(text)


@pytest.mark.parametrize("text", ["", "d", "de-", "de--AT", "de AT", "üb", "de-AT" * 10, "1de"])
def test_no_tags(text: str) -> None:
    assert not is_locale(text)


def test_a_localized_text_is_laid_over_the_variant_and_both_are_recorded() -> None:
    picture = PushNotification(
        title="Sale", body="Now", image_url="https://a.example/1.png", priority="NORMAL", badge=3
    )
    asked = content(
        variants=(PushVariant("picture", 1, picture),),
        localized=(LocalizedPush("de", PushNotification(title="Ausverkauf", body="Jetzt", badge=4)),),
    )
    german, english = decide(case(content=asked, tokens=[PolicyToken(locale="de-AT"), PolicyToken(locale="en")]))
    assert english == Send(picture, "picture", None)
    assert german == Send(
        PushNotification(
            title="Ausverkauf", body="Jetzt", image_url="https://a.example/1.png", priority="NORMAL", badge=4
        ),
        "picture",
        "de",
    )


@pytest.mark.parametrize(("given", "priority"), [("HIGH", "HIGH"), ("NORMAL", "NORMAL"), (None, "NORMAL")])
def test_the_priority_of_a_localized_text_wins_where_it_is_given(given: str | None, priority: str) -> None:
    asked = content(
        push=PushNotification(title="Sale", body="", priority="NORMAL"),
        localized=(LocalizedPush("de", PushNotification(title="Ausverkauf", body="", priority=given)),),
    )
    [german] = decide(case(content=asked, tokens=[PolicyToken(locale="de")]))
    assert german == Send(PushNotification(title="Ausverkauf", body="", priority=priority), None, "de")


def test_without_a_default_the_first_localized_text_is_it() -> None:
    localized = tuple(LocalizedPush(tag, PushNotification(title=tag, body="")) for tag in ("fr", "de"))
    asked = content(push=None, localized=localized)
    french, german = decide(case(content=asked, tokens=[PolicyToken(locale="it"), PolicyToken(locale="de")]))
    assert french == Send(localized[0].push, None, None)
    assert german == Send(localized[1].push, None, "de")


@example(hour=23, asked=content(variants=variants(1, 1)))
@given(hour=st.integers(0, 23), asked=st.sampled_from([content(), content(variants=variants(3, 1))]))
def test_deciding_again_at_the_end_of_quiet_hours_sends(hour: int, asked: PushContent) -> None:
    rules = PushRules(quiet_hours=NIGHT)
    [decision] = decide(case(content=asked, rules=rules, now=NOON.replace(hour=hour)))
    if isinstance(decision, PutOff):
        [decision] = decide(case(content=asked, rules=rules, now=decision.until))
    assert isinstance(decision, Send)
