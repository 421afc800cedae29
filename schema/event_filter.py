"""Which events: the filter that lists, timelines and streams share, and the argument that takes it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeAlias

import strawberry

from resolvers.filters import MAX_KEYS, MAX_NAMES, EventFilterArguments
from schema.conditions import ConditionInput
from schema.inputs import build_with


@strawberry.input(
    description="Which events. Everything given must hold; a list given must hold the event's value. Empty: all events."
)
class EventFilter:
    event_types: list[str] | None = strawberry.field(
        default=strawberry.UNSET,
        description=f"Exact names or wildcards: order.placed, push.*, *.failed, *. At most {MAX_NAMES}.",
    )
    modules: list[str] | None = strawberry.field(
        default=strawberry.UNSET, description=f"Exact names. At most {MAX_NAMES}."
    )
    user_id: str | None = strawberry.field(default=strawberry.UNSET, description="The person it happened to.")
    anonymous_id: str | None = strawberry.field(default=strawberry.UNSET, description="The sender's anonymous id.")
    keys: list[str] | None = strawberry.field(
        default=strawberry.UNSET, description=f"As given in EventInput.id. At most {MAX_KEYS}."
    )
    since: datetime | None = strawberry.field(default=strawberry.UNSET, description="Earliest timestamp, inclusive.")
    until: datetime | None = strawberry.field(default=strawberry.UNSET, description="Latest timestamp, exclusive.")
    where: list[ConditionInput] | None = strawberry.field(
        default=strawberry.UNSET,
        description="All of these hold. Lists take event.*, profile.* and counts; streams take event.* only.",
    )


def _arguments(value: dict[str, Any]) -> EventFilterArguments:
    return EventFilterArguments(
        event_types=value.get("eventTypes"),
        modules=value.get("modules"),
        user_id=value.get("userId"),
        anonymous_id=value.get("anonymousId"),
        keys=value.get("keys"),
        since=value.get("since"),
        until=value.get("until"),
        where=value.get("where"),
    )


build_with(EventFilter, _arguments)


FilterArgument: TypeAlias = Annotated[
    EventFilterArguments | None,
    strawberry.argument(
        name="filter",
        description="Only these events; all when absent. Streams test event.* only.",
        graphql_type=EventFilter | None,
    ),
]
