"""Events: the items of the log."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import strawberry

from db.records import EventRecord
from engine.node_ids import write_event_id
from resolvers import events as resolve
from schema.info import Info
from schema.node import Node
from schema.scalars import JSON, BigInt
from schema.withheld import WITHHELD

if TYPE_CHECKING:
    from schema.profile import Profile


@strawberry.type(
    description=(
        "One thing that happened, as the log keeps it: it never changes. Needs VIEWER, or the person's own session; "
        "INGEST sees what it wrote."
    )
)
class Event(Node):
    seq: BigInt = strawberry.field(description="1, 2, 3 … without gaps within the project, in commit order.")
    org_id: strawberry.ID = strawberry.field(description="The organization's UUID, as in webhooks; not a node id.")
    project_id: strawberry.ID = strawberry.field(description="The project's UUID, as in webhooks; not a node id.")
    key: str = strawberry.field(
        description="EventInput.id, or one made by the server. Up to 128 characters, stored once per project."
    )
    module: str = strawberry.field(description="The part of the product that it is of, e.g. analytics, push.")
    event_type: str = strawberry.field(description="Dotted object.past_tense_verb, e.g. order.placed.")
    timestamp: datetime = strawberry.field(
        description="When it happened, as its sender says; receivedAt when the sender did not say."
    )
    received_at: datetime = strawberry.field(description="When it was stored; never less than that of a lower seq.")
    user_id: str | None = strawberry.field(description="The person it happened to. Up to 256 characters.")
    anonymous_id: str | None = strawberry.field(description="The sender's id of a person not known yet.")
    properties: JSON = strawberry.field(description="What the sender says of the event; a JSON object.")
    context: JSON = strawberry.field(
        description=(
            "What the sender says of its surroundings; a JSON object. Its ip is a hash of the network. The server says "
            "in cause and depth which delivery an event is about, and how many of the server's own events lead to it."
        )
    )
    project_uuid: strawberry.Private[UUID]
    person: strawberry.Private[str | None]

    @strawberry.field(
        description=(
            "The person it happened to, as known now. Null without userId. Needs VIEWER, or the person's own session."
        )
    )
    async def profile(self, info: Info) -> Annotated[Profile, strawberry.lazy("schema.profile")] | None:
        found = await resolve.profile_of(info.context, project_id=self.project_uuid, user_id=self.person)
        return profiles.Profile.of_optional(found)

    @staticmethod
    def of(record: EventRecord, *, organization_id: UUID, withheld: bool = False) -> Event:
        """`withheld`: the viewer may see that there is such an event, and nothing of what it says."""
        return Event(
            id=strawberry.ID(write_event_id(record.project_id, record.seq)),
            seq=BigInt(record.seq),
            org_id=strawberry.ID(str(organization_id)),
            project_id=strawberry.ID(str(record.project_id)),
            key=record.key,
            received_at=record.received_at,
            project_uuid=record.project_id,
            person=record.user_id,
            **(_NOTHING if withheld else _content(record)),
        )


_CONTENT = ("module", "event_type", "timestamp", "user_id", "anonymous_id", "properties", "context")
_NOTHING = dict.fromkeys(_CONTENT, WITHHELD)


def _content(record: EventRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _CONTENT}


# Last, because an event leads to its person and a person to their events: each module names the other's types.
import schema.profile as profiles  # noqa: E402
