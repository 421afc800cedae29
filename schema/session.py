"""Sessions of end users: signing in, refreshing, signing out, second factors."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import strawberry

from engine.accounts.enrolling import ConfirmedTotp, EnrolledTotp
from engine.accounts.passwords import MAX_CHARACTERS, MIN_CHARACTERS
from engine.accounts.second_factor import RECOVERY_CODES
from engine.accounts.sessions import IssuedSession
from engine.accounts.sign_in import AnonymousSignIn, SignIn, SignUp
from engine.errors import UserError as EngineUserError
from engine.node_ids import NodeKind, write_node_id
from resolvers.sessions import SignedIn
from schema.errors import MutationPayload, user_errors
from schema.inputs import build_with
from schema.profile import Profile
from schema.scalars import JSON
from schema.submission import json_text


@strawberry.type(description="A signed-in end user of the host app, with their tokens. Needs INGEST.")
class AuthSession:
    user_id: str = strawberry.field(description="The person's id: in events, profiles and pushes.")
    anonymous: bool = strawberry.field(description="Whether the person has not signed up yet.")
    access_token: str = strawberry.field(
        description="A JWT for `Authorization: Bearer …`; verifies with the keys at /.well-known/jwks.json."
    )
    refresh_token: str = strawberry.field(
        description="For refreshSession, once: coming back a second time it ends the session. Good for 60 days."
    )
    expires_at: datetime = strawberry.field(description="When the access token expires: 15 minutes after it was made.")

    @staticmethod
    def of(session: IssuedSession) -> AuthSession:
        return AuthSession(
            user_id=session.user_id,
            anonymous=session.anonymous,
            access_token=session.access_token,
            refresh_token=session.refresh_token,
            expires_at=session.expires_at,
        )


@strawberry.input(description="What signInAnonymously takes.")
class SignInAnonymouslyInput:
    device_id: str | None = strawberry.field(
        default=strawberry.UNSET, description="The app's name of this device, 1 to 256 characters. It proves nothing."
    )
    traits: JSON | None = strawberry.field(
        default_factory=dict, description="What is known of the person; a JSON object."
    )


@strawberry.input(description="What signUp takes.")
class SignUpInput:
    email: str = strawberry.field(description="Told apart from others in lower case. Not verified.")
    password: str = strawberry.field(
        description=f"{MIN_CHARACTERS} to {MAX_CHARACTERS} characters, none of those that are guessed first."
    )
    traits: JSON | None = strawberry.field(
        default_factory=dict, description="What is known of the person; a JSON object."
    )
    anonymous_refresh_token: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="Refresh token of the anonymous session on this device: the same user row is upgraded in place.",
    )


@strawberry.input(description="What signIn takes.")
class SignInInput:
    email: str = strawberry.field(description="As given to signUp.")
    password: str = strawberry.field(description="As given to signUp.")
    anonymous_refresh_token: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="Refresh token of the anonymous session on this device: triggers device takeover.",
    )
    totp_code: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="Of the authenticator app, or a recovery code; needed where the account has a second factor.",
    )


def _anonymous_sign_in(value: dict[str, Any]) -> AnonymousSignIn:
    return AnonymousSignIn(device_id=value.get("deviceId"), traits=_traits(value))


def _sign_up(value: dict[str, Any]) -> SignUp:
    return SignUp(
        email=value["email"],
        password=value["password"],
        traits=_traits(value),
        anonymous_refresh_token=value.get("anonymousRefreshToken"),
    )


def _sign_in(value: dict[str, Any]) -> SignIn:
    return SignIn(
        email=value["email"],
        password=value["password"],
        totp_code=value.get("totpCode"),
        anonymous_refresh_token=value.get("anonymousRefreshToken"),
    )


def _traits(value: dict[str, Any]) -> bytes:
    given = value.get("traits")
    return b"{}" if given is None else json_text(given)


build_with(SignInAnonymouslyInput, _anonymous_sign_in)
build_with(SignUpInput, _sign_up)
build_with(SignInInput, _sign_in)

AnonymousSignInArgument = Annotated[
    AnonymousSignIn,
    strawberry.argument(name="input", description="The device.", graphql_type=SignInAnonymouslyInput),
]
SignUpArgument = Annotated[
    SignUp, strawberry.argument(name="input", description="The account.", graphql_type=SignUpInput)
]
SignInArgument = Annotated[
    SignIn, strawberry.argument(name="input", description="Who signs in.", graphql_type=SignInInput)
]


@strawberry.type(description="A session, or why there is none. Needs INGEST, which sees of the person ids.")
class AuthPayload(MutationPayload):
    session: AuthSession | None = strawberry.field(description="Null when there is none, or none any more.")
    profile: Profile | None = strawberry.field(description="The person. INGEST sees ids.")
    retired_anon_user_id: str | None = strawberry.field(
        description="Set when an anonymous user was taken over and erased."
    )
    retired_profile_id: strawberry.ID | None = strawberry.field(description="Node id of that profile, for caches.")

    @staticmethod
    def of(signed_in: SignedIn) -> AuthPayload:
        outcome, profile = signed_in.outcome, signed_in.profile
        retired = outcome.retired_profile_id
        return AuthPayload(
            session=None if outcome.session is None else AuthSession.of(outcome.session),
            profile=None if profile is None else Profile.of(profile, withheld=signed_in.withheld),
            retired_anon_user_id=outcome.retired_user_id,
            retired_profile_id=None if retired is None else strawberry.ID(write_node_id(NodeKind.PROFILE, retired)),
            user_errors=user_errors(outcome.errors),
        )


@strawberry.type(description="A second factor to be confirmed. Needs INGEST.")
class EnrollTotpPayload(MutationPayload):
    secret: str | None = strawberry.field(description="Shown once, for typing in: base32.")
    otpauth_uri: str | None = strawberry.field(description="The same as otpauth://totp/…, for a QR code.")

    @staticmethod
    def of(enrolled: EnrolledTotp) -> EnrollTotpPayload:
        return EnrollTotpPayload(
            secret=enrolled.secret, otpauth_uri=enrolled.uri, user_errors=user_errors(enrolled.errors)
        )


@strawberry.type(description="A second factor in use. Needs INGEST.")
class ConfirmTotpPayload(MutationPayload):
    recovery_codes: list[str] = strawberry.field(
        description=f"Shown once: {RECOVERY_CODES} codes that stand in for a lost device, each good once."
    )

    @staticmethod
    def of(confirmed: ConfirmedTotp) -> ConfirmTotpPayload:
        return ConfirmTotpPayload(
            recovery_codes=list(confirmed.recovery_codes), user_errors=user_errors(confirmed.errors)
        )


@strawberry.type(description="Whether a second factor was taken away. Needs INGEST.")
class DisableTotpPayload(MutationPayload):
    @staticmethod
    def of(errors: tuple[EngineUserError, ...]) -> DisableTotpPayload:
        return DisableTotpPayload(user_errors=user_errors(errors))
