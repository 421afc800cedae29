"""Root fields of end users' sessions."""

from __future__ import annotations

from typing import Annotated

import strawberry

from resolvers import sessions
from schema.info import Info
from schema.session import (
    AnonymousSignInArgument,
    AuthPayload,
    ConfirmTotpPayload,
    DisableTotpPayload,
    EnrollTotpPayload,
    SignInArgument,
    SignUpArgument,
)

RefreshTokenArgument = Annotated[str, strawberry.argument(description="The newest of the session.")]


@strawberry.type
class SessionsMutation:
    @strawberry.mutation(description="Make an anonymous user, with an id that stays, and a session. Needs INGEST.")
    async def sign_in_anonymously(self, info: Info, arguments: AnonymousSignInArgument) -> AuthPayload | None:
        return AuthPayload.of(await sessions.sign_in_anonymously(info.context, arguments=arguments))

    @strawberry.mutation(
        description=(
            "Make an account and a session. With anonymousRefreshToken the anonymous user becomes it: same id, same "
            "history. Needs INGEST."
        )
    )
    async def sign_up(self, info: Info, arguments: SignUpArgument) -> AuthPayload | None:
        return AuthPayload.of(await sessions.sign_up(info.context, arguments=arguments))

    @strawberry.mutation(
        description=(
            "Make a session for whoever knows the password. With anonymousRefreshToken the device is taken over: its "
            "push tokens and history are the person's, the anonymous user is deleted; safe to repeat. RATE_LIMITED "
            "after many failures. Needs INGEST."
        )
    )
    async def sign_in(self, info: Info, arguments: SignInArgument) -> AuthPayload | None:
        return AuthPayload.of(await sessions.sign_in_by_password(info.context, arguments=arguments))

    @strawberry.mutation(
        description=(
            "Replace a refresh token by the next one, with a new access token. One that was used before ends the "
            "session. Needs INGEST."
        )
    )
    async def refresh_session(self, info: Info, refresh_token: RefreshTokenArgument) -> AuthPayload | None:
        return AuthPayload.of(await sessions.refresh_session(info.context, refresh_token=refresh_token))

    @strawberry.mutation(
        description="End a session: within a second its access token is refused, and its streams end. Needs INGEST."
    )
    async def sign_out(self, info: Info, refresh_token: RefreshTokenArgument) -> AuthPayload | None:
        return AuthPayload.of(await sessions.sign_out(info.context, refresh_token=refresh_token))

    @strawberry.mutation(
        description=(
            "Make a secret for the authenticator app of the person whose session asks. Codes are asked for once "
            "confirmTotp has shown that the app has it. Needs INGEST."
        )
    )
    async def enroll_totp(self, info: Info) -> EnrollTotpPayload | None:
        return EnrollTotpPayload.of(await sessions.enroll_totp(info.context))

    @strawberry.mutation(
        description="Ask the person whose session asks for a code at each sign-in from now on. Needs INGEST."
    )
    async def confirm_totp(
        self, info: Info, code: Annotated[str, strawberry.argument(description="Six digits, as the app shows them.")]
    ) -> ConfirmTotpPayload | None:
        return ConfirmTotpPayload.of(await sessions.confirm_totp(info.context, code=code))

    @strawberry.mutation(description="Ask the person whose session asks for codes no more. Needs INGEST.")
    async def disable_totp(
        self,
        info: Info,
        code: Annotated[str, strawberry.argument(description="Six digits, or a recovery code.")],
    ) -> DisableTotpPayload | None:
        return DisableTotpPayload.of(await sessions.disable_totp(info.context, code=code))
