"""What can be read: one entry per root field."""

from __future__ import annotations

from typing import Annotated

import strawberry

from engine.errors import Forbidden
from resolvers import events, nodes, profiles, projects
from resolvers.paging import PageArguments
from schema.any_node import as_node
from schema.conditions import ConditionInput, Conditions
from schema.event_filter import FilterArgument
from schema.event_list import EventConnection, EventOrder
from schema.event_type import EventTypeInfoConnection
from schema.head_first import reading
from schema.info import Info
from schema.node import Node
from schema.paging import After, Before, First, Last
from schema.profile import Profile, ProfileConnection
from schema.project import Viewer
from schema.roots.audiences import AudiencesQuery
from schema.roots.audit import AuditQuery
from schema.roots.bundles import BundlesQuery
from schema.roots.consent import ConsentQuery
from schema.roots.deliveries import DeliveriesQuery
from schema.roots.email import EmailQuery
from schema.roots.erasure import ErasureQuery
from schema.roots.funnels import FunnelsQuery
from schema.roots.inbound import InboundQuery
from schema.roots.insights import InsightsQuery
from schema.roots.members import MembersQuery
from schema.roots.project_settings import ProjectSettingsQuery
from schema.roots.providers import ProvidersQuery
from schema.roots.push import PushQuery
from schema.roots.trends import TrendsQuery
from schema.roots.trusted_documents import TrustedDocumentsQuery
from schema.roots.webhooks import WebhooksQuery
from schema.roots.workflow_runs import WorkflowRunsQuery
from schema.roots.workflows import WorkflowsQuery

WhereArgument = Annotated[
    Conditions | None,
    strawberry.argument(
        description="All of these hold; on profile.* and counts of events.",
        graphql_type=list[ConditionInput] | None,
    ),
]


@strawberry.type(description="Everything that can be read. Every field looks in the caller's project only.")
class Query(
    DeliveriesQuery,
    PushQuery,
    ProjectSettingsQuery,
    ConsentQuery,
    EmailQuery,
    ErasureQuery,
    ProvidersQuery,
    WebhooksQuery,
    InboundQuery,
    WorkflowsQuery,
    WorkflowRunsQuery,
    AudiencesQuery,
    AuditQuery,
    BundlesQuery,
    FunnelsQuery,
    TrendsQuery,
    TrustedDocumentsQuery,
    InsightsQuery,
    MembersQuery,
):
    @strawberry.field(description="Who asks. Needs INGEST.")
    async def viewer(self, info: Info) -> Viewer:
        ctx = await reading(info)
        return Viewer.of(projects.read_viewer(ctx))

    @strawberry.field(
        description=(
            "Anything by its id; null when this project has no such thing. Needs VIEWER, or the person's own "
            "session; keys and audit entries need "
            "ADMIN."
        )
    )
    async def node(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="As in Node.id.")],  # noqa: A002
    ) -> Node | None:
        ctx = await reading(info)
        return as_node(await nodes.find_node(ctx, node_id=id))

    @strawberry.field(
        description=(
            "Several things by their ids, in that order; null for what is not there. Needs VIEWER, or the person's "
            "own session."
        )
    )
    async def nodes(
        self, info: Info, ids: Annotated[list[strawberry.ID], strawberry.argument(description="At most 100.")]
    ) -> list[Node | None]:
        ctx = await reading(info)
        found = await nodes.find_nodes(ctx, node_ids=ids)
        return [each if isinstance(each, Forbidden) else as_node(each) for each in found]  # type: ignore[misc]

    @strawberry.field(description="The log. Needs VIEWER, or the person's own session.")
    async def events(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        event_filter: FilterArgument = None,
        order: Annotated[EventOrder | None, strawberry.argument(description="By seq.")] = EventOrder.NEWEST_FIRST,
    ) -> EventConnection | None:
        ctx = await reading(info)
        listed = await events.list_events(
            ctx,
            arguments=PageArguments(first, after, last, before),
            event_filter=event_filter,
            newest_first=order is not EventOrder.OLDEST_FIRST,
        )
        return EventConnection.of(listed)

    @strawberry.field(
        description="The types of events that this project has stored, and the canonical ones, by name. Needs VIEWER."
    )
    async def event_types(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        module: Annotated[str | None, strawberry.argument(description="Only of this module.")] = None,
        search: Annotated[str | None, strawberry.argument(description="Any part of the name, in any case.")] = None,
    ) -> EventTypeInfoConnection | None:
        ctx = await reading(info)
        page = await events.list_event_types(ctx, arguments=PageArguments(first, after), module=module, search=search)
        return EventTypeInfoConnection.of(page)

    @strawberry.field(
        description=(
            "One person; null when no event ever named this user id. Needs VIEWER, or the person's own session."
        )
    )
    async def profile(
        self, info: Info, user_id: Annotated[str, strawberry.argument(description="The host app's id.")]
    ) -> Profile | None:
        ctx = await reading(info)
        return Profile.of_optional(await profiles.find_profile(ctx, user_id=user_id))

    @strawberry.field(description="People, newest first. Needs VIEWER.")
    async def profiles(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        where: WhereArgument = None,
        search: Annotated[
            str | None,
            strawberry.argument(description="Any part of the user id or of the traits email and name, in any case."),
        ] = None,
    ) -> ProfileConnection | None:
        ctx = await reading(info)
        listed = await profiles.list_profiles(
            ctx, arguments=PageArguments(first, after, last, before), where=where, search=search
        )
        return ProfileConnection.of(listed)
