"""The canonical event types: one registry, which `eventTypes` serves, plus the older names that filters still take.

Unknown types are as welcome as these. What is canonical has a module, a description and a meaning that Sendora itself
relies on. An alias and its canonical name are one type to whoever filters; an event keeps the name it came with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType

import msgspec

from engine.wildcards import fits, split_pattern


class CanonicalType(msgspec.Struct, frozen=True):
    """One canonical event type. `event_type` is `object.past_tense_verb`, `module` the part of the product."""

    event_type: str
    module: str
    description: str


_DESCRIPTIONS = {
    "auth.signed_up": "A person created an account.",
    "auth.signed_in": "A person signed in.",
    "auth.device_takeover": "A person signed in on a device and took over its anonymous user.",
    "auth.mfa_enrolled": "A person added a second factor.",
    "auth.signin_storm": "Sign-ins failed unusually often in a short time.",
    "auth.user_created": "A user was created by a server rather than by the person.",
    "email.sent": "An email was handed to the provider.",
    "email.delivered": "The recipient's mail server accepted an email.",
    "email.opened": "An email was opened.",
    "email.clicked": "A link in an email was followed.",
    "email.bounced": "An email could not be delivered.",
    "email.complained": "A recipient reported an email as spam.",
    "push.send_requested": "A push notification was asked for.",
    "push.scheduled": "A push notification was put off to a later time.",
    "push.sent": "The push service accepted a notification.",
    "push.delivered": "A device reported that a notification arrived.",
    "push.failed": "A push notification failed for good.",
    "push.suppressed": "A push notification was held back by consent, quiet hours or a cap.",
    "push.cancelled": "A push notification was cancelled before it was sent.",
    "push.opened": "A push notification was opened.",
    "push.clicked": "An action of a push notification was chosen.",
    "push.token_invalidated": "A push token was given up: its service knows it no more, or its person has too many.",
    "push.live_activity_started": "A Live Activity was started.",
    "push.live_activity_updated": "A Live Activity was updated.",
    "push.live_activity_ended": "A Live Activity was ended.",
    "push.live_activity_invalidated": "A Live Activity's token is no longer valid.",
    "geofence.entered": "A device entered a geofence.",
    "geofence.exited": "A device left a geofence.",
    "geofence.dwelled": "A device stayed inside a geofence for its dwell time.",
    "sms.sent": "A text message was handed to the provider.",
    "sms.delivered": "The carrier reported a text message as delivered.",
    "sms.failed": "A text message failed for good.",
    "link.created": "A tracked link was created.",
    "link.opened": "A tracked link was opened.",
    "attribution.installed": "An installation was attributed to its source.",
    "survey.completed": "A survey was completed.",
    "survey.response": "A question of a survey was answered.",
    "support.ticket_created": "A support ticket was opened.",
    "support.status_changed": "A support ticket changed its status.",
    "support.sla_breached": "A support ticket passed the time it was promised in.",
    "automation.run_started": "A workflow run started.",
    "automation.step_completed": "A step of a workflow run was completed.",
    "automation.run_completed": "A workflow run reached its end.",
    "automation.run_failed": "A workflow run failed.",
    "automation.promote_failed": "A queued workflow run could not be started.",
    "billing.subscription_created": "A subscription began.",
    "billing.subscription_renewed": "A subscription was renewed.",
    "billing.subscription_cancelled": "A subscription was cancelled.",
    "csat.detractor": "A person gave a low satisfaction score.",
    "kb.article_viewed": "An article of the knowledge base was read.",
    "consent.granted": "A person granted consent for a purpose.",
    "consent.revoked": "A person revoked consent for a purpose.",
    "consent.reset": "A person's word about a purpose was taken back: it is unknown again.",
    "consent.erasure_completed": "A person was erased.",
    "audience.entered": "A person became a member of an audience.",
    "audience.exited": "A person ceased to be a member of an audience.",
    "webhook.endpoint_disabled": "A webhook endpoint was switched off: it answered 410 Gone, or failed for too long.",
    "webhook.delivery_dead_lettered": "A webhook delivery used up its attempts.",
}

CANONICAL: Mapping[str, CanonicalType] = MappingProxyType(
    {name: CanonicalType(name, name.partition(".")[0], text) for name, text in sorted(_DESCRIPTIONS.items())}
)
"""By name, sorted as the database sorts names: byte by byte."""

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "auth.user_signed_up": "auth.signed_up",
        "user.signed_up": "auth.signed_up",
        "promote.failed": "automation.promote_failed",
        "billing.renewed": "billing.subscription_renewed",
        "billing.cancelled": "billing.subscription_cancelled",
    }
)
"""Older name → canonical name."""

_SYNONYMS: tuple[frozenset[str], ...] = tuple(
    frozenset({canonical, *(alias for alias, target in ALIASES.items() if target == canonical)})
    for canonical in sorted(set(ALIASES.values()))
)


def expand_names(patterns: Iterable[str]) -> tuple[str, ...]:
    """The names and wildcards of a filter, with every other name of what they match added.

    Whoever asks for `user.signed_up` gets `auth.signed_up` too, and the reverse: both names are the same type,
    whichever one an event was sent with. Order is kept, nothing comes twice.
    """
    return tuple(dict.fromkeys(name for pattern in patterns for name in _expand(pattern)))


@lru_cache(maxsize=4096)
def _expand(pattern: str) -> tuple[str, ...]:
    parts = split_pattern(pattern)
    added: list[str] = []
    for names in _SYNONYMS:
        matched = {name for name in names if fits(name, parts)}
        if matched:
            added.extend(sorted(names - matched))
    return (pattern, *added)
