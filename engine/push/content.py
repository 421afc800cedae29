"""What a push may say: bounds of its texts, variants and locales. Pure. Everything that is wrong is said at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec

from engine.channels.push_message import MAX_PAYLOAD_BYTES
from engine.dispatch.values import LiveActivity, LocalizedPush, PushNotification, PushVariant
from engine.errors import UserError
from engine.json_limits import find_problem
from engine.push.live_activities import ActivityAction
from engine.push.locales import is_locale, same_form
from engine.push.registration import MAX_NAME_CHARACTERS
from engine.push.texts import check_text

MAX_VARIANTS = 10
"""More cannot be told apart by the audiences that a product has."""
MAX_LOCALES = 50
"""More languages than any app store takes."""
MAX_CONTENT_BYTES = 64 * 1024
"""Of all texts of one send together: it is stored with each delivery."""
MAX_WEIGHT = 10_000
"""Hundredths of a percent."""
MAX_SHORT_CHARACTERS = 128
"""Of what names something in the app: a sound, a category, a thread."""
MAX_URL_CHARACTERS = 2048
MAX_COLLAPSE_BYTES = 64
"""Apple's limit of apns-collapse-id."""
MAX_TTL_SECONDS = 28 * 24 * 3600
"""FCM's limit; Apple keeps for 30 days at most."""
MAX_BADGE = 99_999

Path = tuple[str, ...]


class PushPriority(StrEnum):
    """How urgent a push is."""

    NORMAL = "NORMAL"
    HIGH = "HIGH"


def check_texts(
    push: PushNotification | None, variants: Sequence[PushVariant], localized: Sequence[LocalizedPush]
) -> tuple[UserError, ...]:
    """Everything that is wrong with what a push says."""
    if push is None and not variants and not localized:
        return (UserError("Give push, variants or localized: there is nothing to say.", "INVALID", ("input", "push")),)
    errors = [
        *(() if push is None else check_notification(push, ("input", "push"))),
        *_check_variants(variants, ("input", "variants")),
        *_check_localized(localized, ("input", "localized")),
    ]
    size = 0 if errors else len(msgspec.json.encode((push, variants, localized)))
    if size > MAX_CONTENT_BYTES:
        message = f"The texts take {size:,} bytes together; the limit is {MAX_CONTENT_BYTES:,}."
        errors.append(UserError(message, "LIMIT_EXCEEDED", ("input",)))
    return tuple(errors)


def check_notification(push: PushNotification, path: Path) -> Iterator[UserError]:
    """Everything that is wrong with one text."""
    found = list(_check_parts(push, path))
    yield from found or _check_json(push, path)


def check_activity(change: LiveActivity) -> tuple[UserError, ...]:
    """Everything that is wrong with a change of a Live Activity."""
    errors = [
        *check_text(
            change.attributes_type, "attributesType", path=("input", "attributesType"), most=MAX_NAME_CHARACTERS
        ),
        *check_text(change.activity_id, "activityId", path=("input", "activityId"), most=MAX_NAME_CHARACTERS),
    ]
    if change.alert is not None:
        errors += check_notification(change.alert, ("input", "alert"))
    if change.action != ActivityAction.END and not isinstance(change.content_state, dict):
        message = "contentState is the JSON object that the activity's ContentState is decoded from."
        errors.append(UserError(message, "INVALID", ("input", "contentState")))
    if change.action == ActivityAction.START:
        errors += _check_start(change)
    return tuple(errors or _check_json(change, ("input",)))


def _check_start(change: LiveActivity) -> Iterator[UserError]:
    if not isinstance(change.attributes, dict):
        message = "START needs attributes: the JSON object that the activity's attributes are decoded from."
        yield UserError(message, "INVALID", ("input", "attributes"))
    if change.alert is None:
        yield UserError(
            "START needs an alert: Apple shows it when the activity appears.", "INVALID", ("input", "alert")
        )


def _check_parts(push: PushNotification, path: Path) -> Iterator[UserError]:
    if not push.title.strip() and not push.body.strip():
        yield UserError("Give a title or a body.", "INVALID", (*path, "title"))
    for name, value in (("sound", push.sound), ("category", push.category), ("threadId", push.thread_id)):
        yield from check_text(value, name, path=(*path, name), most=MAX_SHORT_CHARACTERS)
    for name, value in (("url", push.url), ("imageUrl", push.image_url)):
        yield from check_text(value, name, path=(*path, name), most=MAX_URL_CHARACTERS)
    yield from _check_collapse_id(push.collapse_id, (*path, "collapseId"))
    yield from _check_range(push.badge, "badge", MAX_BADGE, (*path, "badge"))
    yield from _check_range(push.ttl_seconds, "ttlSeconds", MAX_TTL_SECONDS, (*path, "ttlSeconds"))


def _check_collapse_id(value: str | None, path: Path) -> Iterator[UserError]:
    errors = list(check_text(value, "collapseId", path=path, most=MAX_COLLAPSE_BYTES))
    if not errors and value is not None and len(value.encode()) > MAX_COLLAPSE_BYTES:
        errors.append(UserError(f"collapseId must take at most {MAX_COLLAPSE_BYTES} bytes.", "INVALID", path))
    yield from errors


def _check_range(value: int | None, name: str, most: int, path: Path) -> Iterator[UserError]:
    if value is not None and not 0 <= value <= most:
        yield UserError(f"{name} must lie between 0 and {most:,}.", "INVALID", path)


def _check_json(value: PushNotification | LiveActivity, path: Path) -> Iterator[UserError]:
    """What cannot be stored, or no push service takes."""
    try:
        text = msgspec.json.encode(value)
    except (UnicodeEncodeError, TypeError, RecursionError):
        yield UserError("It holds something that is no JSON.", "INVALID", path)
        return
    if len(text) > MAX_PAYLOAD_BYTES:
        message = f"It takes {len(text):,} bytes as JSON; push services take {MAX_PAYLOAD_BYTES:,}."
        yield UserError(message, "LIMIT_EXCEEDED", path)
        return
    problem = find_problem(text, most_bytes=MAX_PAYLOAD_BYTES)
    if problem is not None:
        yield UserError(problem.message, "INVALID", (*path, *problem.path))


def _check_variants(variants: Sequence[PushVariant], path: Path) -> Iterator[UserError]:
    if len(variants) > MAX_VARIANTS:
        yield UserError(f"There are at most {MAX_VARIANTS} variants.", "LIMIT_EXCEEDED", path)
        return
    names = [variant.name for variant in variants]
    if variants and not any(variant.weight > 0 for variant in variants):
        yield UserError("One variant at least needs a weight above 0.", "INVALID", path)
    for index, variant in enumerate(variants):
        at = (*path, str(index))
        yield from check_text(variant.name, "name", path=(*at, "name"), most=MAX_NAME_CHARACTERS)
        if variant.name in names[:index]:
            yield UserError("Another variant has this name.", "INVALID", (*at, "name"))
        yield from _check_range(variant.weight, "weight", MAX_WEIGHT, (*at, "weight"))
        yield from check_notification(variant.push, (*at, "push"))


def _check_localized(localized: Sequence[LocalizedPush], path: Path) -> Iterator[UserError]:
    if len(localized) > MAX_LOCALES:
        yield UserError(f"There are at most {MAX_LOCALES} locales.", "LIMIT_EXCEEDED", path)
        return
    forms = [same_form(each.locale) for each in localized]
    for index, each in enumerate(localized):
        at = (*path, str(index))
        if not is_locale(each.locale):
            yield UserError("locale is a BCP 47 tag, e.g. de or pt-BR.", "INVALID", (*at, "locale"))
        elif forms[index] in forms[:index]:
            yield UserError("There is a text for this locale already.", "INVALID", (*at, "locale"))
        yield from check_notification(each.push, (*at, "push"))
