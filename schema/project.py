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
from resolvers.profiles import find_own_profile
from resolvers.rate_limits import read_rate_limit
from schema.descriptions import described_enum
from schema.errors import MutationPayload, user_errors
from schema.info import Info
from schema.node import Node
from schema.profile import Profile
from schema.rate_limit import RateLimit
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


@strawberry.type(description="A key to one project. Needs VIEWER.")
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
    uuid: strawberry.ID = strawberry.field(description="As in the envelope and webhooks. Needs INGEST.")
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
    uuid: strawberry.ID = strawberry.field(description="As in the envelope and webhooks. Needs INGEST.")
    name: str = strawberry.field(description="For people.")
    region: Region = strawberry.field(description="Where its data is kept. Needs INGEST.")
    withheld: strawberry.Private[bool]

    @strawberry.field(
        description="All of them for a member; with an API key or a session that one's project only. Needs INGEST."
    )
    async def projects(self, info: Info) -> list[Project]:
        found = await resolve.list_projects(info.context)
        return [Project.of(record, withheld=self.withheld) for record in found]

    @staticmethod
    def of(record: ProjectRecord, *, withheld: bool = False) -> Organization:
        """The organization of a project, as far as that project may see it."""
        return Organization(
            id=strawberry.ID(write_node_id(NodeKind.ORGANIZATION, record.organization_id)),
            uuid=strawberry.ID(str(record.organization_id)),
            name=WITHHELD if withheld else record.organization_name,
            region=Region(record.region),
            withheld=withheld,
        )


@strawberry.type(description="Who asks. Needs INGEST.")
class Viewer:
    role: Role = strawberry.field(description="What the caller may do on this connection.")
    record: strawberry.Private[ViewerRecord]

    @strawberry.field(description="The caller's organization.")
    def organization(self) -> Organization:
        return Organization.of(self.record.project, withheld=self.role < Role.VIEWER)

    @strawberry.field(description="The project that the credentials open, or that a member has chosen.")
    def project(self) -> Project:
        return Project.of(self.record.project, withheld=self.role < Role.VIEWER)

    @strawberry.field(description="The key that asks; null for a member and for a user's session. Needs VIEWER.")
    def api_key(self, info: Info) -> ApiKey | None:
        found = resolve.read_own_key(info.context)
        return None if found is None else ApiKey.of(found)

    @strawberry.field(
        description="The signed-in end user, with a user's session, once an event has named them; null without one."
    )
    async def profile(self, info: Info) -> Profile | None:
        return Profile.of_optional(await find_own_profile(info.context))

    @strawberry.field(description="What the role allows, e.g. events:write.")
    def scopes(self) -> list[str]:
        return list(scopes_of(self.role))

    @strawberry.field(description="What this caller has left, as of now. Needs INGEST.")
    async def rate_limit(self, info: Info) -> RateLimit:
        return RateLimit.of(*await read_rate_limit(info.context))

    @staticmethod
    def of(viewer: ViewerRecord) -> Viewer:
        return Viewer(role=viewer.role, record=viewer)


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
