"""Writing events: track, trackBatch, identify."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import strawberry

from db.records import EventRecord
from resolvers import tracking as resolve
from resolvers.tracking import MAX_BATCH, BatchTracked, Identified, IdentifyArguments, Tracked
from schema.errors import MutationPayload, user_errors
from schema.event import Event
from schema.info import Info
from schema.inputs import build_with
from schema.profile import Profile
from schema.scalars import JSON, Cursor
from schema.submission import event_batch, json_text, single_event


@strawberry.input(description="One event. At most 64 KiB as JSON.")
class EventInput:
    id: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=(
            "Idempotency key: the same id is stored once, however often it is sent. Any string up to 128 characters."
        ),
    )
    org_id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="The organization's UUID. If given, it must be the key's."
    )
    project_id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="The project's UUID. If given, it must be the key's."
    )
    module: str | None = strawberry.field(
        default="analytics", description="The part of the product that it is of. Up to 64 letters, digits, _ and -."
    )
    event_type: str = strawberry.field(
        description=(
            "Dotted object.past_tense_verb, e.g. order.placed."
            " 1 to 200 bytes; no control characters, no *, no blanks around it."
        )
    )
    timestamp: datetime | None = strawberry.field(
        default=strawberry.UNSET, description="When it happened, 1970 to 2099; now when absent."
    )
    user_id: str | None = strawberry.field(
        default=strawberry.UNSET, description="The person it happened to. 1 to 256 characters."
    )
    anonymous_id: str | None = strawberry.field(
        default=strawberry.UNSET, description="The sender's id of a person not known yet. 1 to 256 characters."
    )
    signature: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=(
            "HMAC-SHA256 hex of userId under the project's identity secret; see ProjectSettings.requireSignedIdentity."
        ),
    )
    properties: JSON | None = strawberry.field(
        default_factory=dict, description="What is to be said of the event; a JSON object, 64 levels deep at most."
    )
    context: JSON | None = strawberry.field(
        default_factory=dict,
        description=(
            "Its surroundings; a JSON object. context.ip is hashed with the project's salt and truncated before it is "
            "stored. context.traits are merged into the person. context.cause and context.depth are the server's: it "
            "leaves them out of what a client sends."
        ),
    )
    traits: JSON | None = strawberry.field(default=strawberry.UNSET, description="Same as context.traits.")


@strawberry.input(description="What track takes.")
class TrackInput:
    event: EventInput = strawberry.field(description="The event.")


@strawberry.input(description="What trackBatch takes.")
class TrackBatchInput:
    events: list[EventInput] = strawberry.field(description=f"1 to {MAX_BATCH} events.")


@strawberry.input(description="What identify takes.")
class IdentifyInput:
    user_id: str = strawberry.field(description="The host app's id of the person. 1 to 256 characters.")
    traits: JSON = strawberry.field(
        description="What is known; a JSON object. Merged per key, the later timestamp winning; null removes a key."
    )
    signature: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=(
            "HMAC-SHA256 hex of userId under the project's identity secret; required where the project enforces it."
        ),
    )
    timestamp: datetime | None = strawberry.field(
        default=strawberry.UNSET, description="When it became known, 1970 to 2099; now when absent."
    )
    anonymous_id: str | None = strawberry.field(
        default=strawberry.UNSET, description="The id under which the person was known before. 1 to 256 characters."
    )


def _identify_arguments(value: dict[str, Any]) -> IdentifyArguments:
    return IdentifyArguments(
        user_id=value["userId"],
        traits=json_text(value["traits"]),
        timestamp=value.get("timestamp"),
        anonymous_id=value.get("anonymousId"),
        signature=value.get("signature"),
    )


build_with(TrackInput, single_event)
build_with(TrackBatchInput, event_batch)
build_with(IdentifyInput, _identify_arguments)


@strawberry.type(description="Outcome of track. Whoever tracked sees it; INGEST sees only what it wrote itself.")
class TrackPayload(MutationPayload):
    event: Event | None = strawberry.field(description="As stored; null when it was refused.")
    duplicate: bool = strawberry.field(
        description="Whether its id was stored before; event is then what was stored, and nothing was changed."
    )

    @staticmethod
    def of(tracked: Tracked) -> TrackPayload:
        return TrackPayload(
            event=_event(tracked.event, tracked.organization_id, withheld=tracked.withheld),
            duplicate=tracked.duplicate,
            user_errors=user_errors(tracked.errors),
        )


@strawberry.type(
    description=(
        "Partial: valid events are stored even when others in the batch are rejected; "
        "a userError's path holds the index. Whoever tracked sees it."
    )
)
class TrackBatchPayload(MutationPayload):
    accepted: int = strawberry.field(description="Stored now.")
    duplicates: int = strawberry.field(description="Stored before under the same id.")
    rejected: int = strawberry.field(description="Not stored; userErrors says why of each.")
    dropped: int = strawberry.field(description="Forbidden by the person's consent: answered, not stored.")
    project_id: strawberry.Private[UUID]
    last_seq: strawberry.Private[int | None]

    @strawberry.field(description="Position after the last event stored; null when none is.")
    async def cursor(self, info: Info) -> Cursor | None:
        found = await resolve.batch_cursor(info.context, project_id=self.project_id, seq=self.last_seq)
        return None if found is None else Cursor(found)

    @staticmethod
    def of(tracked: BatchTracked) -> TrackBatchPayload:
        return TrackBatchPayload(
            accepted=tracked.accepted,
            duplicates=tracked.duplicates,
            rejected=tracked.rejected,
            dropped=tracked.dropped,
            project_id=tracked.project_id,
            last_seq=tracked.last_seq,
            user_errors=user_errors(tracked.errors),
        )


@strawberry.type(description="Outcome of identify.")
class IdentifyPayload(MutationPayload):
    profile: Profile | None = strawberry.field(
        description="The person as known now. Null for a key in an app without signature or session."
    )
    event: Event | None = strawberry.field(description="user.identified, as stored; null when it was refused.")

    @staticmethod
    def of(identified: Identified) -> IdentifyPayload:
        return IdentifyPayload(
            profile=Profile.of(identified.profile, withheld=identified.withheld) if identified.profile else None,
            event=_event(identified.event, identified.organization_id),
            user_errors=user_errors(identified.errors),
        )


def _event(record: EventRecord | None, organization_id: UUID, *, withheld: bool = False) -> Event | None:
    return None if record is None else Event.of(record, organization_id=organization_id, withheld=withheld)
