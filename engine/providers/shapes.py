"""The shape of each kind's settings and secrets: which parts there are, what each may be, which are needed. Pure.

`merge` puts what a call of `configureProvider` gives over what is stored: absent parts stay, null clears. Everything
that is wrong is said at once, each with the path to it. Where secrets are sent to is part of what they were given for:
whoever changes it has to give them again, so that nobody learns a secret by pointing its provider at a host of theirs.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from engine.egress import Egress
from engine.errors import UserError
from engine.providers import checks
from engine.providers.values import Misfit, ProviderKind

MAX_ECHO_CHARACTERS = 64
"""Of a name that a client made up, in our answer."""


class Part(msgspec.Struct, frozen=True):
    """One setting or secret. `is_destination`: it says where secrets go."""

    check: checks.Check
    is_secret: bool = False
    is_needed: bool = False
    is_destination: bool = False


class Given(msgspec.Struct, frozen=True):
    """What a call gives, or what is stored. `holds_others`: there are secrets besides that cannot be opened here."""

    settings: Mapping[str, Any]
    secrets: Mapping[str, Any]
    holds_others: bool = False


def _needed(check: checks.Check) -> Part:
    return Part(check, is_needed=True)


def _secret(check: checks.Check, *, is_needed: bool = False) -> Part:
    return Part(check, is_secret=True, is_needed=is_needed)


_BASE_URL = Part(checks.url, is_destination=True)

SHAPES: Mapping[ProviderKind, Mapping[str, Part]] = MappingProxyType(
    {
        ProviderKind.APNS: {
            "keyId": _needed(checks.matching(r"[A-Z0-9]{10}", "A key id has 10 capital letters and digits.")),
            "teamId": _needed(checks.matching(r"[A-Z0-9]{10}", "A team id has 10 capital letters and digits.")),
            "bundleId": _needed(
                checks.matching(r"[A-Za-z0-9.-]{1,155}", "A bundle id is a name such as com.example.shop.")
            ),
            "productionUrl": _BASE_URL,
            "sandboxUrl": _BASE_URL,
            "caCertificate": Part(checks.certificates, is_destination=True),
            "privateKey": _secret(checks.apns_key, is_needed=True),
        },
        ProviderKind.FCM: {
            "endpoint": _BASE_URL,
            "serviceAccount": _secret(checks.service_account, is_needed=True),
        },
        ProviderKind.WEB_PUSH: {"subject": Part(checks.contact_url)},
        ProviderKind.SMTP: {
            "host": Part(checks.host, is_needed=True, is_destination=True),
            "port": Part(checks.port, is_needed=True, is_destination=True),
            "security": Part(checks.one_of(("STARTTLS", "TLS", "NONE")), is_needed=True, is_destination=True),
            "username": Part(checks.text),
            "from": _needed(checks.mailbox),
            "password": _secret(checks.text),
        },
        ProviderKind.RESEND: {
            "from": _needed(checks.mailbox),
            "baseUrl": _BASE_URL,
            "apiKey": _secret(checks.text, is_needed=True),
            "webhookSecret": _secret(checks.signing_secret),
        },
        ProviderKind.TWILIO: {
            "accountSid": _needed(
                checks.matching(r"AC[0-9a-fA-F]{32}", "An account SID is AC and 32 hexadecimal digits.")
            ),
            "from": Part(checks.sms_sender),
            "messagingServiceSid": Part(
                checks.matching(r"MG[0-9a-fA-F]{32}", "A messaging service SID is MG and 32 hexadecimal digits.")
            ),
            "baseUrl": _BASE_URL,
            "authToken": _secret(checks.text, is_needed=True),
        },
        ProviderKind.OLLAMA: {
            "baseUrl": Part(checks.url, is_needed=True, is_destination=True),
            "model": _needed(checks.text),
            "apiKey": _secret(checks.text),
        },
    }
)


def merge(
    kind: ProviderKind, *, stored: Given, settings: object, secrets: object, egress: Egress
) -> tuple[Given, tuple[UserError, ...]]:
    """What there is after a call that gives `settings` and `secrets`, and everything that is wrong with them."""
    merged_settings, errors = _merge_part(kind, "settings", stored.settings, settings, egress)
    merged_secrets, found = _merge_part(kind, "secrets", stored.secrets, secrets, egress)
    errors += found
    after = Given(merged_settings, merged_secrets)
    if not errors:
        errors = [*_check_mail_server(kind, after, egress), *_check_destination(kind, stored, after, secrets)]
    return after, tuple(errors)


def missing(kind: str, settings: Mapping[str, Any], secrets: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of what is still needed before anything can be sent."""
    held = {*settings, *secrets}
    names = [name for name, part in SHAPES[ProviderKind(kind)].items() if part.is_needed and name not in held]
    if kind == ProviderKind.TWILIO and not held & {"from", "messagingServiceSid"}:
        names.append("from")
    if kind == ProviderKind.SMTP and "username" in held and "password" not in held:
        names.append("password")
    return tuple(names)


def _merge_part(
    kind: ProviderKind, name: str, held: Mapping[str, Any], given: object, egress: Egress
) -> tuple[dict[str, Any], list[UserError]]:
    merged, errors = dict(held), []
    if given is None:
        return merged, []
    if not isinstance(given, dict):
        return merged, [UserError(f"{name} has to be a JSON object.", "INVALID", ("input", name))]
    for key, value in given.items():
        part = SHAPES[kind].get(key)
        if part is None or part.is_secret != (name == "secrets"):
            errors.append(UserError(_not_there(kind, name, key), "INVALID", ("input", name, key[:MAX_ECHO_CHARACTERS])))
        elif value is None:
            merged.pop(key, None)
        else:
            checked = part.check(value, egress)
            if isinstance(checked, Misfit):
                errors.append(UserError(checked.message, checked.code, ("input", name, key, *checked.path)))
            else:
                merged[key] = checked
    return merged, errors


def _not_there(kind: ProviderKind, name: str, key: str) -> str:
    """Why there is no such part, with the one that was probably meant."""
    shape = SHAPES[kind]
    if key in shape:
        return f"{key} belongs into {'secrets' if shape[key].is_secret else 'settings'}."
    if kind is ProviderKind.WEB_PUSH and name == "secrets":
        return "The keys of Web Push are made by the server: give none."
    known = [each for each, part in shape.items() if part.is_secret == (name == "secrets")]
    nearest = difflib.get_close_matches(key.lower(), [each.lower() for each in known], n=1)
    if nearest:
        meant = next(each for each in known if each.lower() == nearest[0])
        return f"{kind} has no such part of its {name}. Did you mean {meant}?"
    if not known:
        return f"{kind} has no {name}."
    return f"{kind} has no such part of its {name}; it has {', '.join(known)}."


def _check_mail_server(kind: ProviderKind, after: Given, egress: Egress) -> list[UserError]:
    if kind is not ProviderKind.SMTP:
        return []
    settings, errors = after.settings, []
    refusal = checks.mail_server_refusal(settings.get("host", "example.com"), settings.get("port", 587), egress)
    if refusal is not None:
        name = "port" if refusal.startswith("Port") else "host"
        errors.append(UserError(refusal, "BLOCKED_URL", ("input", "settings", name)))
    if settings.get("security") == "NONE" and "password" in after.secrets:
        message = "A password is not sent in the clear: use STARTTLS or TLS, or clear username and password."
        errors.append(UserError(message, "INVALID", ("input", "settings", "security")))
    return errors


def _check_destination(kind: ProviderKind, stored: Given, after: Given, secrets: object) -> list[UserError]:
    given = secrets if isinstance(secrets, dict) else {}
    if all(name in given for name in stored.secrets) and (given or not stored.holds_others):
        return []
    return [
        UserError(
            "Secrets go nowhere but where they were given for: give them again together with this.",
            "INVALID",
            ("input", "settings", name),
        )
        for name, part in SHAPES[kind].items()
        if part.is_destination and stored.settings.get(name) != after.settings.get(name)
    ]
