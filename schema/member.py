"""Members of the organization: people of the dashboard, and the tokens that they sign in with."""

from __future__ import annotations

from datetime import datetime

import strawberry

from db.members import MemberRecord, MemberTokenRecord
from engine import errors
from engine.identity import Role
from engine.members import NewMember, NewMemberToken, ShownMember
from engine.node_ids import NodeKind, write_node_id
from schema.errors import MutationPayload, user_errors


@strawberry.type(description="A token of a member, without its secret. Needs ADMIN, as a member.")
class MemberToken:
    id: strawberry.ID = strawberry.field(description="Node id, for revokeMemberToken.")
    prefix: str = strawberry.field(description="How the token begins: enough to tell it from others.")
    created_at: datetime = strawberry.field(description="When it was made.")
    expires_at: datetime = strawberry.field(description="It is refused from then on.")
    last_used_at: datetime | None = strawberry.field(
        description="When it was last used, to the minute or so; null when never."
    )

    @staticmethod
    def of(record: MemberTokenRecord) -> MemberToken:
        return MemberToken(
            id=strawberry.ID(write_node_id(NodeKind.MEMBER_TOKEN, record.member_token_id)),
            prefix=record.prefix,
            created_at=record.created_at,
            expires_at=record.expires_at,
            last_used_at=record.last_used_at,
        )


@strawberry.type(description="Somebody who works with the organization's projects. Needs ADMIN, as a member.")
class Member:
    id: strawberry.ID = strawberry.field(description="Node id, for removeMember and createMemberToken.")
    email: str = strawberry.field(description="In lower case; one member of an organization has it.")
    role: Role = strawberry.field(description="What the member may do in all projects of the organization.")
    created_at: datetime = strawberry.field(description="When the member was added.")
    tokens: list[MemberToken] = strawberry.field(description="Those that are good still, oldest first.")

    @staticmethod
    def of(record: MemberRecord, tokens: tuple[MemberTokenRecord, ...] = ()) -> Member:
        return Member(
            id=strawberry.ID(write_node_id(NodeKind.MEMBER, record.member_id)),
            email=record.email,
            role=Role[record.role],
            created_at=record.created_at,
            tokens=[MemberToken.of(each) for each in tokens],
        )

    @staticmethod
    def of_shown(shown: ShownMember) -> Member:
        return Member.of(shown.member, shown.tokens)


@strawberry.type(description="Outcome of addMember and removeMember. Needs ADMIN, as a member.")
class MemberPayload(MutationPayload):
    member: Member | None = strawberry.field(description="The member, as added or removed; null when nothing changed.")
    token: str | None = strawberry.field(description="Shown once. Null unless the member was just added.")

    @staticmethod
    def of(member: Member | None, token: str | None, errors: tuple[errors.UserError, ...]) -> MemberPayload:
        return MemberPayload(member=member, token=token, user_errors=user_errors(errors))

    @staticmethod
    def of_new(made: NewMember | None, errors: tuple[errors.UserError, ...]) -> MemberPayload:
        if made is None:
            return MemberPayload.of(None, None, errors)
        return MemberPayload.of(Member.of(made.member, (made.first.record,)), made.first.token, errors)

    @staticmethod
    def of_removed(removed: MemberRecord | None, errors: tuple[errors.UserError, ...]) -> MemberPayload:
        return MemberPayload.of(None if removed is None else Member.of(removed), None, errors)


@strawberry.type(description="Outcome of createMemberToken and revokeMemberToken. Needs ADMIN, as a member.")
class MemberTokenPayload(MutationPayload):
    member_token: MemberToken | None = strawberry.field(description="The token; null when nothing was changed.")
    token: str | None = strawberry.field(description="Shown once. Null unless the token was just made.")

    @staticmethod
    def of_new(made: NewMemberToken | None, errors: tuple[errors.UserError, ...]) -> MemberTokenPayload:
        return MemberTokenPayload(
            member_token=None if made is None else MemberToken.of(made.record),
            token=None if made is None else made.token,
            user_errors=user_errors(errors),
        )

    @staticmethod
    def of_revoked(revoked: MemberTokenRecord | None, errors: tuple[errors.UserError, ...]) -> MemberTokenPayload:
        shown = None if revoked is None else MemberToken.of(revoked)
        return MemberTokenPayload(member_token=shown, token=None, user_errors=user_errors(errors))
