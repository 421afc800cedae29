"""GET and POST /unsubscribe/{token}: unsubscribing with one click (RFC 8058), from a mail program or from a browser.

POST with `List-Unsubscribe=One-Click` acts at once. GET changes nothing, because mail scanners follow links: it shows a
page with a button that posts the same. The page is self-contained, runs no script and may not be framed.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from engine.email.unsubscribe import UnsubscribeTokens, unsubscribe
from inbound.http import guarded, read_body
from inbound.services import InboundServices

MAX_BODY_BYTES = 16 * 1024
"""One field of a form, in either encoding."""
FIELD, VALUE = b"List-Unsubscribe", b"One-Click"

_STYLE = (
    ":root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:28rem;margin:15vh auto;padding:0 "
    "1.5rem}button{font:inherit;padding:.6rem 1.2rem;border-radius:.5rem;border:1px solid;cursor:pointer}"
)
_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}
_FORM = (
    '<form method="post"><input type="hidden" name="List-Unsubscribe" value="One-Click">'
    "<button>Unsubscribe</button></form>"
)


def unsubscribe_route(services: InboundServices, tokens: UnsubscribeTokens) -> Route:
    """The route. `tokens` reads the links."""

    async def handle(request: Request) -> Response:
        unsubscription = tokens.read(request.path_params["token"])
        if unsubscription is None:
            return _page(404, "This link is not valid", "Use the link in the mail, whole and unchanged.")
        if request.method != "POST":
            return _page(200, "Unsubscribe?", "You will get no more mail of this sender.", _FORM)
        body = await read_body(request, most=MAX_BODY_BYTES)
        if FIELD not in body or VALUE not in body:
            return _page(400, "Nothing was changed", "Use the button below.", _FORM)
        done = await unsubscribe(services.database, services.announce, unsubscription, now=services.clock.now())
        if not done:
            return _page(404, "This link is not valid", "Its sender does not exist any more.")
        return _page(200, "You are unsubscribed", "You will get no more mail of this sender.")

    return Route("/unsubscribe/{token}", guarded(handle), methods=["GET", "POST"])


def _page(status: int, title: str, text: str, form: str = "") -> Response:
    """Constant texts only: nothing of the request is in it."""
    html = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1><p>{text}</p>{form}</html>"
    )
    return HTMLResponse(html, status_code=status, headers=_HEADERS)
