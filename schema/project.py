"""Organizations, projects, API keys, and who asks."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from uuid import UUID

import strawberry

from db.records import ApiKeyRecord, ProjectRecord
from engine.errors import UserError as EngineUserError
from engine.identity import ApiKeyKind, KeyEnvironment, Role, scopes_of
from engine.identity import Viewer as ViewerRecord
from engine.node_ids import NodeKind, write_node_id
from engine.provisioning import NewApiKey, NewProject
from resolvers import projects as resolve
from schema.descriptions import described_enum
from schema.errors import MutationPayload, user_errors
from schema.info import Info
from schema.node import Node
from schema.profile import Profile
from schema.scalars import Cursor
from schema.withheld import WITHHELD


class Region(StrEnum):
    EU = "eu"
    US = "us"


described_enum(Region, "Where data is kept. Part of every key.", EU="European Union.", US="United States.")
described_enum(
    ApiKeyKind,
    "Where a key may live.",
    PUBLISHABLE="pk_…: INGEST unless granted more, never ADMIN; cut to INGEST when sent from a browser.",
    SECRET="sk_…: server side.",  # noqa: S106
)
described_enum(
    KeyEnvironment,
    "What a key is for; written into the key.",
    DEV="Development.",
    PROD="Production.",
)
described_enum(
    Role,
    "What a caller may do. Each role includes those before it.",
    INGEST="Writes what an end user's app may write, reads nothing of others.",
    VIEWER="Reads everything of the project.",
    EDITOR="Changes what the project does.",
    ADMIN="Makes and revokes keys, makes projects.",
)


@strawberry.type(description="A key to one project. Needs ADMIN; the key that asks needs VIEWER to see itself.")
class ApiKey(Node):
    name: str = strawberry.field(description="For people, 1 to 100 characters.")
    kind: ApiKeyKind = strawberry.field(description="Where the key may live.")
    environment: KeyEnvironment = strawberry.field(description="What the key is for.")
    role: Role = strawberry.field(description="What the key may do outside a browser.")
    prefix: str = strawberry.field(description="How the key begins: enough to tell it from others.")
    created_at: datetime = strawberry.field(description="When it was made.")
    last_used_at: datetime | None = strawberry.field(
        description="When it was last used, to the minute or so; null when never."
    )
    revoked_at: datetime | None = strawberry.field(description="When it was revoked; null while it is valid.")

    @staticmethod
    def of(record: ApiKeyRecord) -> ApiKey:
        return ApiKey(
            id=strawberry.ID(write_node_id(NodeKind.API_KEY, record.api_key_id)),
            name=record.name,
            kind=ApiKeyKind(record.kind),
            environment=KeyEnvironment(record.environment),
            role=Role[record.role],
            prefix=record.prefix,
            created_at=record.created_at,
            last_used_at=record.last_used_at,
            revoked_at=record.revoked_at,
        )


@strawberry.type(description="What one log, its people and its keys belong to. Needs VIEWER; INGEST sees the ids.")
class Project(Node):
    uuid: strawberry.ID = strawberry.field(description="As in the envelope and webhooks.")
    name: str = strawberry.field(description="For people, 1 to 100 characters.")
    created_at: datetime = strawberry.field(description="When it was made.")
    project_id: strawberry.Private[UUID]

    @strawberry.field(
        description="Position of the newest event in the log, read before the rest of an operation. Needs VIEWER."
    )
    async def head(self, info: Info) -> Cursor:
        return Cursor(await resolve.read_head(info.context, project_id=self.project_id))

    @strawberry.field(description="All keys, revoked ones included, oldest first. Needs ADMIN.")
    async def api_keys(self, info: Info) -> list[ApiKey] | None:
        return [ApiKey.of(record) for record in await resolve.list_api_keys(info.context, project_id=self.project_id)]

    @staticmethod
    def of(record: ProjectRecord, *, withheld: bool = False) -> Project:
        """`withheld`: the viewer may see no more than ids."""
        return Project(
            id=strawberry.ID(write_node_id(NodeKind.PROJECT, record.project_id)),
            uuid=strawberry.ID(str(record.project_id)),
            name=WITHHELD if withheld else record.name,
            created_at=WITHHELD if withheld else record.created_at,
            project_id=record.project_id,
        )


@strawberry.type(description="Whose projects these are. Needs VIEWER; INGEST sees the ids.")
class Organization(Node):
    uuid: strawberry.ID = strawberry.field(description="As in the envelope and webhooks.")
    name: str = strawberry.field(description="For people.")
    region: Region = strawberry.field(description="Where its data is kept.")
    projects: list[Project] = strawberry.field(description="With an API key, that key's project only.")

    @staticmethod
    def of(record: ProjectRecord, *, withheld: bool = False) -> Organization:
        """The organization of a project, as far as that project may see it."""
        return Organization(
            id=strawberry.ID(write_node_id(NodeKind.ORGANIZATION, record.organization_id)),
            uuid=strawberry.ID(str(record.organization_id)),
            name=WITHHELD if withheld else record.organization_name,
            region=Region(record.region),
            projects=[Project.of(record, withheld=withheld)],
        )


@strawberry.type(description="Who asks. Needs INGEST.")
class Viewer:
    organization: Organization = strawberry.field(description="The caller's organization.")
    project: Project = strawberry.field(description="The project that the credentials open.")
    role: Role = strawberry.field(description="What the caller may do on this connection.")
    api_key: ApiKey | None = strawberry.field(description="The key that asks. Needs VIEWER.")
    profile: Profile | None = strawberry.field(
        description="The signed-in end user, with a user's session; null with an API key."
    )
    scopes: list[str] = strawberry.field(description="What the role allows, e.g. events:write.")

    @staticmethod
    def of(viewer: ViewerRecord) -> Viewer:
        withheld = viewer.role < Role.VIEWER
        return Viewer(
            organization=Organization.of(viewer.project, withheld=withheld),
            project=Project.of(viewer.project, withheld=withheld),
            role=viewer.role,
            api_key=WITHHELD if withheld else None if viewer.api_key is None else ApiKey.of(viewer.api_key),
            profile=None,
            scopes=list(scopes_of(viewer.role)),
        )


@strawberry.type(description="Outcome of createApiKey and revokeApiKey.")
class ApiKeyPayload(MutationPayload):
    api_key: ApiKey | None = strawberry.field(description="The key; null when nothing was changed.")
    token: str | None = strawberry.field(description="Shown once. Null unless the key was just made.")

    @staticmethod
    def of(record: ApiKeyRecord | None, token: str | None, errors: tuple[EngineUserError, ...]) -> ApiKeyPayload:
        return ApiKeyPayload(
            api_key=ApiKey.of(record) if record else None, token=token, user_errors=user_errors(errors)
        )

    @staticmethod
    def of_new(made: NewApiKey | None, errors: tuple[EngineUserError, ...]) -> ApiKeyPayload:
        return ApiKeyPayload.of(made.api_key if made else None, made.token if made else None, errors)


@strawberry.type(description="Outcome of createProject.")
class ProjectPayload(MutationPayload):
    project: Project | None = strawberry.field(description="The project; null when nothing was changed.")
    api_key: ApiKey | None = strawberry.field(description="Its first key, SECRET and ADMIN.")
    token: str | None = strawberry.field(description="Shown once.")

    @staticmethod
    def of(made: NewProject | None, errors: tuple[EngineUserError, ...]) -> ProjectPayload:
        return ProjectPayload(
            project=Project.of(made.project) if made else None,
            api_key=ApiKey.of(made.first_key.api_key) if made else None,
            token=made.first_key.token if made else None,
            user_errors=user_errors(errors),
        )
