"""GET /.well-known/jwks.json: the keys that access tokens of this deployment verify with (RFC 7517)."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine.accounts.signing_keys import JWKS_MAX_AGE, SigningKeys

JWKS_PATH = "/.well-known/jwks.json"
_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Cache-Control": f"public, max-age={int(JWKS_MAX_AGE.total_seconds())}",
}
"""It is public, for verifiers in browsers too."""


def accounts_routes(keys: SigningKeys) -> list[Route]:
    """The route. The first request to a new deployment makes its first key."""

    async def handle(_request: Request) -> Response:
        return JSONResponse(
            {"keys": [dict(jwk) for jwk in await keys.published()]}, media_type="application/json", headers=_HEADERS
        )

    return [Route(JWKS_PATH, handle)]
