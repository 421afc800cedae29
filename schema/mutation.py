"""What can be changed: one entry per root field."""

from __future__ import annotations

from typing import Annotated

import strawberry

from engine.identity import ApiKeyKind, KeyEnvironment, Role
from resolvers import projects, tracking
from resolvers.tracking import EventBatch, IdentifyArguments
from schema.info import Info
from schema.project import ApiKeyPayload, ProjectPayload
from schema.roots.audiences import AudiencesMutation
from schema.roots.bundles import BundlesMutation
from schema.roots.consent import ConsentMutation
from schema.roots.deliveries import DeliveriesMutation
from schema.roots.email import EmailMutation
from schema.roots.erasure import ErasureMutation
from schema.roots.inbound import InboundMutation
from schema.roots.insights import InsightsMutation
from schema.roots.members import MembersMutation
from schema.roots.project_settings import ProjectSettingsMutation
from schema.roots.providers import ProvidersMutation
from schema.roots.push import PushMutation
from schema.roots.sessions import SessionsMutation
from schema.roots.sms import SmsMutation
from schema.roots.trusted_documents import TrustedDocumentsMutation
from schema.roots.webhooks import WebhooksMutation
from schema.roots.workflow_runs import WorkflowRunsMutation
from schema.roots.workflow_secrets import WorkflowSecretsMutation
from schema.roots.workflows import WorkflowsMutation
from schema.track import (
    IdentifyInput,
    IdentifyPayload,
    TrackBatchInput,
    TrackBatchPayload,
    TrackInput,
    TrackPayload,
)

NameArgument = Annotated[str, strawberry.argument(description="For people, 1 to 100 characters.")]


@strawberry.type(description="Everything that can be changed. Every field changes the caller's project only.")
class Mutation(
    DeliveriesMutation,
    PushMutation,
    ProjectSettingsMutation,
    ConsentMutation,
    EmailMutation,
    ErasureMutation,
    SmsMutation,
    SessionsMutation,
    ProvidersMutation,
    WebhooksMutation,
    InboundMutation,
    WorkflowsMutation,
    WorkflowRunsMutation,
    WorkflowSecretsMutation,
    AudiencesMutation,
    BundlesMutation,
    InsightsMutation,
    TrustedDocumentsMutation,
    MembersMutation,
):
    @strawberry.mutation(description="Store one event; answered once it is on disk. Needs INGEST.")
    async def track(
        self,
        info: Info,
        batch: Annotated[
            EventBatch, strawberry.argument(name="input", description="The event.", graphql_type=TrackInput)
        ],
    ) -> TrackPayload | None:
        return TrackPayload.of(await tracking.track(info.context, batch=batch))

    @strawberry.mutation(description="Store up to 1000 events in one go; answered once they are on disk. Needs INGEST.")
    async def track_batch(
        self,
        info: Info,
        batch: Annotated[
            EventBatch, strawberry.argument(name="input", description="The events.", graphql_type=TrackBatchInput)
        ],
    ) -> TrackBatchPayload | None:
        return TrackBatchPayload.of(await tracking.track_batch(info.context, batch=batch))

    @strawberry.mutation(description="Say who somebody is: merges traits into the person. Needs INGEST.")
    async def identify(
        self,
        info: Info,
        arguments: Annotated[
            IdentifyArguments,
            strawberry.argument(name="input", description="The person.", graphql_type=IdentifyInput),
        ],
    ) -> IdentifyPayload | None:
        return IdentifyPayload.of(await tracking.identify(info.context, arguments=arguments))

    @strawberry.mutation(description="Make a project in the caller's organization, with its first key. Needs ADMIN.")
    async def create_project(self, info: Info, name: NameArgument) -> ProjectPayload | None:
        return ProjectPayload.of(*await projects.create_project(info.context, name=name))

    @strawberry.mutation(description="Make a key of the caller's project. Its token is shown once. Needs ADMIN.")
    async def create_api_key(
        self,
        info: Info,
        name: NameArgument,
        kind: Annotated[ApiKeyKind, strawberry.argument(description="Where it may live.")],
        role: Annotated[Role, strawberry.argument(description="What it may do; PUBLISHABLE is never ADMIN.")],
        environment: Annotated[
            KeyEnvironment | None, strawberry.argument(description="What it is for.")
        ] = KeyEnvironment.PROD,
    ) -> ApiKeyPayload | None:
        made = await projects.create_api_key(info.context, name=name, kind=kind, role=role, environment=environment)
        return ApiKeyPayload.of_new(*made)

    @strawberry.mutation(
        description="End a key: within a second its streams end too. Revoking again changes nothing. Needs ADMIN."
    )
    async def revoke_api_key(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="Node id of the key.")],  # noqa: A002
    ) -> ApiKeyPayload | None:
        record, errors = await projects.revoke_api_key(info.context, node_id=id)
        return ApiKeyPayload.of(record, None, errors)
