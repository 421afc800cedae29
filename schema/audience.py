"""Audiences: groups of people that conditions describe."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import strawberry

from db.audiences import AudienceRecord
from engine.audiences.saving import MAX_NAME_CHARACTERS
from engine.errors import UserError as EngineUserError
from engine.node_ids import NodeKind, write_node_id
from resolvers import audiences as resolve
from resolvers.paging import Page, PageArguments
from schema.conditions import ConditionInput
from schema.errors import MutationPayload, user_errors
from schema.info import Info
from schema.inputs import keep_mapping
from schema.node import Node
from schema.paging import After, First, PageInfo, edges_of
from schema.scalars import JSON, Cursor

if TYPE_CHECKING:
    from schema.profile import ProfileConnection


@strawberry.type(description="A group of people that conditions describe: whoever meets them belongs. Needs VIEWER.")
class Audience(Node):
    name: str = strawberry.field(description=f"1 to {MAX_NAME_CHARACTERS} characters, once per project.")
    where: JSON = strawberry.field(description="A list of ConditionInput, as it was saved; all of them hold.")
    created_at: datetime = strawberry.field(description="When it was made.")
    updated_at: datetime = strawberry.field(description="When it was last saved.")
    record: strawberry.Private[AudienceRecord]

    @strawberry.field(description="How many belong to it now: counted when asked for, exactly. Needs VIEWER.")
    async def size(self, info: Info) -> int:
        return await resolve.size_of(info.context, record=self.record)

    @strawberry.field(description="Who belongs to it now, by userId. Needs VIEWER.")
    async def members(
        self, info: Info, first: First = 20, after: After = None
    ) -> Annotated[ProfileConnection, strawberry.lazy("schema.profile")]:
        listed = await resolve.list_members(
            info.context, record=self.record, arguments=PageArguments(first=first, after=after)
        )
        return profiles.ProfileConnection.of(listed)

    @staticmethod
    def of(record: AudienceRecord) -> Audience:
        return Audience(
            id=strawberry.ID(write_node_id(NodeKind.AUDIENCE, record.audience_id)),
            name=record.name,
            where=JSON(record.conditions),
            created_at=record.created_at,
            updated_at=record.updated_at,
            record=record,
        )

    @staticmethod
    def of_optional(record: AudienceRecord | None) -> Audience | None:
        return None if record is None else Audience.of(record)


@strawberry.type(description="An audience and its position in a list. Needs VIEWER.")
class AudienceEdge:
    cursor: Cursor = strawberry.field(description="Position in lists of audiences.")
    node: Audience = strawberry.field(description="The audience.")


@strawberry.type(description="A page of audiences, by name. Needs VIEWER.")
class AudienceConnection:
    edges: list[AudienceEdge] = strawberry.field(description="Up to 100 audiences.")
    page_info: PageInfo = strawberry.field(description="Where this page stands in the list.")

    @staticmethod
    def of(page: Page[AudienceRecord]) -> AudienceConnection:
        return AudienceConnection(
            edges=edges_of(page, AudienceEdge, Audience.of),
            page_info=PageInfo.of(page),
        )


@strawberry.input(description="With id, what is absent or null stays as it is. Without, an audience is made.")
class SaveAudienceInput:
    id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="Which to change.")
    name: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=f"1 to {MAX_NAME_CHARACTERS} characters, once per project. Needed when it is made.",
    )
    where: list[ConditionInput] | None = strawberry.field(
        default=strawberry.UNSET,
        description=(
            "All of these hold; on profile.* and counts of events. An empty list is for everybody. "
            "Needed when it is made."
        ),
    )


keep_mapping(SaveAudienceInput)

SaveAudienceArguments = dict[str, Any]
"""The input as it was coerced: what is absent is not in it."""


@strawberry.type(description="Outcome of saveAudience; whoever may save sees it. Needs EDITOR.")
class SaveAudiencePayload(MutationPayload):
    audience: Audience | None = strawberry.field(description="As it is now; null when nothing was changed.")

    @staticmethod
    def of(record: AudienceRecord | None, errors: tuple[EngineUserError, ...]) -> SaveAudiencePayload:
        return SaveAudiencePayload(audience=Audience.of_optional(record), user_errors=user_errors(errors))


# Last, because an audience leads to people and a person to audiences: each module names the other's types.
import schema.profile as profiles  # noqa: E402
