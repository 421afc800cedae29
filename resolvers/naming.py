"""Who may name whom: what a request that names a person from an app needs.

A session names its own person, and nobody else. A signature that is wrong is refused wherever it comes. Where the
project requires it (`ProjectSettings.requireSignedIdentity`), whoever speaks from an app and has no session needs a
right one: every publishable key, every key in a browser, and secret keys below EDITOR. Servers with EDITOR need none.
"""

from __future__ import annotations

from typing import Final

from engine.errors import UserError
from engine.identity import ApiKeyKind, Role, Viewer
from resolvers.context import Context
from resolvers.permissions import check_named

RETIRED: Final = UserError(
    "This user was taken over by whoever signed in on their device: name that person.", "STATE", ("input", "userId")
)
"""Of a word or a device that would be nobody's: nothing is sent to a retired user, nor asked of what they allow."""


def is_from_app(viewer: Viewer) -> bool:
    """Whether whoever asks may be anybody who has the app, or a page, in their hands."""
    is_publishable = viewer.api_key is not None and viewer.api_key.kind == ApiKeyKind.PUBLISHABLE
    return is_publishable or viewer.role < Role.EDITOR


def own_user_id(viewer: Viewer, user_id: str | None) -> str | None:
    """Whom something is about: with a session its person, where nobody is named."""
    return viewer.session.user_id if user_id is None and viewer.session is not None else user_id


async def check_person(
    ctx: Context, viewer: Viewer, user_id: str | None, signature: str | None, path: tuple[str, ...] = ()
) -> tuple[UserError, ...]:
    """Why this person may not be named; `path` is that of the object with `userId` and `signature`."""
    errors = check_named(viewer, user_id, (*path, "userId"))
    if errors or user_id is None:
        return errors
    if signature is not None:
        if await ctx.services.signatures.verify(viewer.project_id, user_id, signature):
            return ()
        message = (
            "This is not the HMAC-SHA256 of userId, in hexadecimal digits, under an identity secret of this project "
            "that is valid: see rotateIdentitySecret."
        )
        return (UserError(message, "INVALID_CREDENTIALS", (*path, "signature")),)
    if viewer.session is not None or not is_from_app(viewer):
        return ()
    settings = await ctx.services.project_settings.read(viewer.project_id)
    if not settings.require_signed_identity:
        return ()
    message = "This project takes a userId from apps only with its signature, or with that person's session."
    return (UserError(message, "INVALID_CREDENTIALS", (*path, "signature")),)
