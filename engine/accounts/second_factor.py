"""A second factor: codes of an authenticator app that change every 30 seconds (TOTP, RFC 6238)."""


def totp_purpose(user_id: str) -> str:
    """What a user's secret is sealed for."""
    return f"totp:{user_id}"
