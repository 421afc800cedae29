"""The kinds of providers, and what is said of a part that does not fit."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class ProviderKind(StrEnum):
    """Whose account it is."""

    APNS = "APNS"
    FCM = "FCM"
    WEB_PUSH = "WEB_PUSH"
    SMTP = "SMTP"
    RESEND = "RESEND"
    TWILIO = "TWILIO"
    OLLAMA = "OLLAMA"


class Misfit(msgspec.Struct, frozen=True):
    """Why a value does not fit, in a sentence that never repeats it. `path` leads to its part within the value."""

    message: str
    code: str = "INVALID"
    path: tuple[str, ...] = ()
