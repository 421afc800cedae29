"""Signing in and out: what the end users of a host app do with a key of its app."""

from __future__ import annotations

import msgspec

from db.records import ProfileRecord
from engine.accounts import enrolling, sessions, sign_in
from engine.accounts.enrolling import ConfirmedTotp, EnrolledTotp
from engine.accounts.sessions import Authenticated
from engine.accounts.sign_in import AnonymousSignIn, SignIn, SignUp
from engine.errors import UserError
from engine.identity import Role, Viewer
from resolvers.context import Context
from resolvers.permissions import require

_NO_SESSION = UserError(
    "This is for a person's own session: send its access token as Authorization: Bearer …", "INVALID_CREDENTIALS", ()
)


class SignedIn(msgspec.Struct, frozen=True):
    """What became of it, and the person. Of `profile` the viewer may see no more than ids where `withheld`."""

    outcome: Authenticated
    profile: ProfileRecord | None = None
    withheld: bool = True


async def sign_in_anonymously(ctx: Context, *, arguments: AnonymousSignIn) -> SignedIn:
    """A session for somebody new."""
    viewer = require(ctx, Role.INGEST)
    return await _signed_in(
        ctx, viewer, await sign_in.sign_in_anonymously(ctx.services.accounts, viewer.project, arguments)
    )


async def sign_up(ctx: Context, *, arguments: SignUp) -> SignedIn:
    """An account."""
    viewer = require(ctx, Role.INGEST)
    asked = msgspec.structs.replace(arguments, client=ctx.client)
    return await _signed_in(ctx, viewer, await sign_in.sign_up(ctx.services.accounts, viewer.project, asked))


async def sign_in_by_password(ctx: Context, *, arguments: SignIn) -> SignedIn:
    """A session for whoever knows the password."""
    viewer = require(ctx, Role.INGEST)
    asked = msgspec.structs.replace(arguments, client=ctx.client)
    return await _signed_in(ctx, viewer, await sign_in.sign_in(ctx.services.accounts, viewer.project, asked))


async def refresh_session(ctx: Context, *, refresh_token: str) -> SignedIn:
    """The next pair of tokens."""
    viewer = require(ctx, Role.INGEST)
    outcome = await sessions.refresh_session(
        ctx.services.accounts, project_id=viewer.project_id, refresh_token=refresh_token
    )
    return await _signed_in(ctx, viewer, outcome)


async def sign_out(ctx: Context, *, refresh_token: str) -> SignedIn:
    """The end of a session."""
    viewer = require(ctx, Role.INGEST)
    errors = await sessions.sign_out(ctx.services.accounts, project_id=viewer.project_id, refresh_token=refresh_token)
    return SignedIn(Authenticated(errors=errors))


async def enroll_totp(ctx: Context) -> EnrolledTotp:
    """A secret for the authenticator app of whoever is signed in."""
    viewer = require(ctx, Role.INGEST)
    if viewer.session is None:
        return EnrolledTotp(errors=(_NO_SESSION,))
    return await enrolling.enroll_totp(ctx.services.accounts, viewer.project, user_id=viewer.session.user_id)


async def confirm_totp(ctx: Context, *, code: str) -> ConfirmedTotp:
    """From now on a code is asked for."""
    viewer = require(ctx, Role.INGEST)
    if viewer.session is None:
        return ConfirmedTotp(errors=(_NO_SESSION,))
    user_id = viewer.session.user_id
    return await enrolling.confirm_totp(ctx.services.accounts, viewer.project, user_id=user_id, code=code)


async def disable_totp(ctx: Context, *, code: str) -> tuple[UserError, ...]:
    """No code is asked for any more."""
    viewer = require(ctx, Role.INGEST)
    if viewer.session is None:
        return (_NO_SESSION,)
    user_id = viewer.session.user_id
    return await enrolling.disable_totp(ctx.services.accounts, viewer.project, user_id=user_id, code=code)


async def _signed_in(ctx: Context, viewer: Viewer, outcome: Authenticated) -> SignedIn:
    if outcome.session is None:
        return SignedIn(outcome)
    ctx.forget_reads()
    profile = await ctx.loaders.profiles_by_user.load((viewer.project_id, outcome.session.user_id))
    return SignedIn(outcome, profile, withheld=viewer.role < Role.VIEWER)
