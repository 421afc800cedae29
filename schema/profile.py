"""People: whoever an event named by userId."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import strawberry

from db.records import ProfileRecord
from engine.node_ids import NodeKind, write_node_id
from resolvers import audiences as resolve_audiences
from resolvers import consent as resolve_consent
from resolvers import deliveries as resolve_deliveries
from resolvers import events as resolve
from resolvers import workflow_runs as resolve_runs
from resolvers.paging import Listed, PageArguments
from resolvers.push_tokens import tokens_of
from schema.consent import Consent, ConsentChangeConnection
from schema.delivery_filter import DeliveryFilterArgument
from schema.event_filter import FilterArgument
from schema.info import Info
from schema.node import Node
from schema.paging import After, CountedConnection, First, PageInfo, edges_of
from schema.push_token import NEWEST_TOKENS, PushToken
from schema.scalars import JSON, Cursor
from schema.withheld import WITHHELD

if TYPE_CHECKING:
    from schema.audience import Audience
    from schema.delivery_list import DeliveryConnection
    from schema.event_list import EventConnection
    from schema.workflow_run_list import WorkflowRunConnection


@strawberry.type(description="A person: whoever an event named by userId. Needs VIEWER, or the person's own session.")
class Profile(Node):
    user_id: str = strawberry.field(description="The host app's id of this person. Up to 256 characters.")
    anonymous: bool = strawberry.field(description="Whether the person has not signed up yet.")
    traits: JSON = strawberry.field(
        description="What is known of the person; a JSON object. Per key, the value of the later event holds."
    )
    created_at: datetime = strawberry.field(description="When the first event that names the person was stored.")
    last_seen_at: datetime | None = strawberry.field(
        description="Timestamp of the newest event that names the person, by seq; null when none is kept."
    )
    record: strawberry.Private[ProfileRecord]

    @strawberry.field(
        description=(
            "Everything that happened to this person, from every module. Newest first; Needs VIEWER, or the person's "
            "own session."
        )
    )
    async def timeline(
        self,
        info: Info,
        first: First = 20,
        after: After = None,
        event_filter: FilterArgument = None,
    ) -> Annotated[EventConnection, strawberry.lazy("schema.event_list")]:
        listed = await resolve.list_timeline(
            info.context,
            profile=self.record,
            arguments=PageArguments(first=first, after=after),
            event_filter=event_filter,
        )
        return event_lists.EventConnection.of(listed)

    @strawberry.field(
        description=(
            "What was sent, or is to be sent, to this person. Newest first; Needs VIEWER, or the person's own session."
        )
    )
    async def deliveries(
        self,
        info: Info,
        first: First = 20,
        after: After = None,
        delivery_filter: DeliveryFilterArgument = None,
    ) -> Annotated[DeliveryConnection, strawberry.lazy("schema.delivery_list")]:
        listed = await resolve_deliveries.list_of_person(
            info.context,
            profile=self.record,
            arguments=PageArguments(first=first, after=after),
            delivery_filter=delivery_filter,
        )
        return delivery_lists.DeliveryConnection.of(listed)

    @strawberry.field(
        description="The workflows that this person is, or was, taken through. Newest first. Needs VIEWER."
    )
    async def workflow_runs(
        self, info: Info, first: First = 20, after: After = None
    ) -> Annotated[WorkflowRunConnection, strawberry.lazy("schema.workflow_run_list")]:
        listed = await resolve_runs.list_of_person(
            info.context, profile=self.record, arguments=PageArguments(first=first, after=after)
        )
        return run_lists.WorkflowRunConnection.of(listed)

    @strawberry.field(
        description="What the person allows, of every purpose. Needs VIEWER, or the person's own session."
    )
    async def consents(self, info: Info) -> list[Consent]:
        return [Consent.of(held) for held in await resolve_consent.consents_of(info.context, profile=self.record)]

    @strawberry.field(
        description=(
            "Everything that the person said about consent. Newest first; needs VIEWER, or the person's own session."
        )
    )
    async def consent_history(self, info: Info, first: First = 20, after: After = None) -> ConsentChangeConnection:
        page = await resolve_consent.consent_history(
            info.context, profile=self.record, arguments=PageArguments(first=first, after=after)
        )
        return ConsentChangeConnection.of(page)

    @strawberry.field(description=NEWEST_TOKENS)
    async def push_tokens(self, info: Info) -> list[PushToken]:
        found = await tokens_of(info.context, project_id=self.record.project_id, user_id=self.record.user_id)
        return [PushToken.of(record) for record in found]

    @strawberry.field(
        description=(
            "The audiences that the person belongs to, by name: as kept up to date, within about a second of what "
            "happens. Needs VIEWER."
        )
    )
    async def audiences(self, info: Info) -> list[Annotated[Audience, strawberry.lazy("schema.audience")]]:
        found = await resolve_audiences.audiences_of(info.context, profile=self.record)
        return [audiences.Audience.of(record) for record in found]

    @staticmethod
    def of(record: ProfileRecord, *, withheld: bool = False) -> Profile:
        """`withheld`: the viewer may see no more of the person than ids."""
        known = {
            "anonymous": record.anonymous,
            "traits": record.traits,
            "created_at": record.created_at,
            "last_seen_at": record.last_seen_at,
        }
        return Profile(
            id=strawberry.ID(write_node_id(NodeKind.PROFILE, record.profile_id)),
            user_id=record.user_id,
            record=record,
            **(dict.fromkeys(known, WITHHELD) if withheld else known),
        )

    @staticmethod
    def of_optional(record: ProfileRecord | None) -> Profile | None:
        return None if record is None else Profile.of(record)


@strawberry.type(description="A person and their position in a list. Needs VIEWER.")
class ProfileEdge:
    cursor: Cursor = strawberry.field(description="Position in lists of profiles.")
    node: Profile = strawberry.field(description="The person.")


@strawberry.type(description="A page of people, newest first. Needs VIEWER.")
class ProfileConnection(CountedConnection[ProfileEdge]):
    edges: list[ProfileEdge] = strawberry.field(description="Up to 100 people.")

    @staticmethod
    def of(listed: Listed[ProfileRecord]) -> ProfileConnection:
        page = listed.page
        return ProfileConnection(
            edges=edges_of(page, ProfileEdge, Profile.of),
            page_info=PageInfo.of(page),
            counter=listed.counter,
        )


# Last, because an event or a delivery leads to its person and a person to theirs: each module names the other's types.
import schema.audience as audiences  # noqa: E402
import schema.delivery_list as delivery_lists  # noqa: E402
import schema.event_list as event_lists  # noqa: E402
import schema.workflow_run_list as run_lists  # noqa: E402
