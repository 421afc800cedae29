"""Expected failures of mutations, as data."""

from __future__ import annotations

from enum import StrEnum

import strawberry

from engine import errors
from schema.descriptions import described_enum


class UserErrorCode(StrEnum):
    INVALID = "INVALID"
    NOT_FOUND = "NOT_FOUND"
    CONFLICT = "CONFLICT"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    NOT_CONFIGURED = "NOT_CONFIGURED"
    BLOCKED_URL = "BLOCKED_URL"
    BLOCKED_CONTENT = "BLOCKED_CONTENT"
    STATE = "STATE"
    INVALID_CREDENTIALS = "INVALID_CREDENTIALS"
    CONSENT = "CONSENT"


described_enum(
    UserErrorCode,
    "Why a mutation changed nothing. May grow: treat a code that you do not know like INVALID.",
    INVALID="The input can never work: mend it before you send it again.",
    NOT_FOUND="What the input names does not exist in this project.",
    CONFLICT="Somebody else changed it meanwhile: read it again.",
    LIMIT_EXCEEDED="More than is allowed at once; the message says how much is.",
    NOT_CONFIGURED="Something has to be set up first.",
    BLOCKED_URL="The address may not be called.",
    BLOCKED_CONTENT="The content may not be sent.",
    STATE="Not possible in the state that it is in.",
    INVALID_CREDENTIALS="Wrong password or token.",
    CONSENT="Refused by the person's consent; do not retry.",
)


@strawberry.type(description="One expected failure of a mutation. Whoever may run the mutation sees it.")
class UserError:
    message: str = strawberry.field(description="For the developer who reads it, in English.")
    code: UserErrorCode = strawberry.field(description="For programs.")
    path: list[str] = strawberry.field(description='Where in the input, e.g. ["input","steps","2","config","url"].')

    @staticmethod
    def of(error: errors.UserError) -> UserError:
        return UserError(message=error.message, code=UserErrorCode(error.code), path=list(error.path))


def user_errors(found: tuple[errors.UserError, ...]) -> list[UserError]:
    """The failures of one mutation, in their order."""
    return [UserError.of(error) for error in found]


@strawberry.interface(description="What every mutation answers with.")
class MutationPayload:
    user_errors: list[UserError] = strawberry.field(
        description=(
            "Empty when the mutation took effect; otherwise nothing was changed, "
            "unless the payload says that it is partial."
        )
    )
