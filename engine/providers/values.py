"""The kinds of providers."""

from __future__ import annotations

from enum import StrEnum


class ProviderKind(StrEnum):
    """Whose account it is."""

    APNS = "APNS"
    FCM = "FCM"
    WEB_PUSH = "WEB_PUSH"
    SMTP = "SMTP"
    RESEND = "RESEND"
    TWILIO = "TWILIO"
    OLLAMA = "OLLAMA"
