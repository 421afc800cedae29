"""Root fields of the organization's members."""

from __future__ import annotations

from typing import Annotated

import strawberry

from engine.identity import Role
from engine.members import MAX_MEMBERS, MAX_TOKENS, TOKEN_LIFETIME
from resolvers import members
from schema.head_first import reading
from schema.info import Info
from schema.member import Member, MemberPayload, MemberTokenPayload


@strawberry.type
class MembersQuery:
    @strawberry.field(
        description=f"Who works with the organization's projects, up to {MAX_MEMBERS}. Needs ADMIN, as a member."
    )
    async def members(self, info: Info) -> list[Member] | None:
        ctx = await reading(info)
        return [Member.of_shown(each) for each in await members.list_members(ctx)]


@strawberry.type
class MembersMutation:
    @strawberry.mutation(
        description=(
            "Add somebody to the organization, with a first token, which is shown once and is good for "
            f"{TOKEN_LIFETIME.days} days. A role never changes: remove the member, and add them anew. "
            "Needs ADMIN, as a member."
        )
    )
    async def add_member(
        self,
        info: Info,
        email: Annotated[str, strawberry.argument(description="Up to 320 characters; kept in lower case.")],
        role: Annotated[Role, strawberry.argument(description="VIEWER, EDITOR or ADMIN, in all projects.")],
    ) -> MemberPayload | None:
        return MemberPayload.of_new(*await members.add_member(info.context, email=email, role=role))

    @strawberry.mutation(
        description=(
            "End a member: within a second their tokens are refused and what is open under them ends. The last ADMIN "
            "stays. Needs ADMIN, as a member."
        )
    )
    async def remove_member(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="Node id of the member.")],  # noqa: A002
    ) -> MemberPayload | None:
        return MemberPayload.of_removed(*await members.remove_member(info.context, node_id=id))

    @strawberry.mutation(
        description=(
            f"Make another token of a member, who has at most {MAX_TOKENS}. It is shown once. Needs ADMIN, as a member."
        )
    )
    async def create_member_token(
        self,
        info: Info,
        member_id: Annotated[strawberry.ID, strawberry.argument(description="Node id of the member.")],
    ) -> MemberTokenPayload | None:
        return MemberTokenPayload.of_new(*await members.create_member_token(info.context, member_node_id=member_id))

    @strawberry.mutation(
        description="End a token: within a second what is open under it ends too. Needs ADMIN, as a member."
    )
    async def revoke_member_token(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="Node id of the token.")],  # noqa: A002
    ) -> MemberTokenPayload | None:
        return MemberTokenPayload.of_revoked(*await members.revoke_member_token(info.context, node_id=id))
