"""Where the gateway and its workers may connect to: the SSRF guard."""

from __future__ import annotations

from urllib.parse import urlsplit


class Egress:
    """The policy of this deployment. `allowed` are networks that may be reached although they are private, over http
    too; with `guarded` false everything may be.
    """

    def __init__(self, *, allowed: str = "", guarded: bool = True) -> None:
        self.allowed = allowed
        self.guarded = guarded

    def refusal(self, url: str, *, plain_http: bool = False) -> str | None:
        """Why this URL may not be called, in a sentence for whoever gave it; None when it may as far as text tells.

        Names are not resolved here: the address is checked when it is dialled.
        """
        parts = urlsplit(url)
        if parts.scheme == "https" or (parts.scheme == "http" and (plain_http or not self.guarded or self.allowed)):
            return None
        return "Only https URLs may be called."
