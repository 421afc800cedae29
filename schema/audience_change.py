"""Who comes to belong to audiences and who ceases to: the items of the audiences lane."""

from __future__ import annotations

from datetime import datetime

import strawberry

from db.audience_records import AudienceChangeRecord
from engine.live.items import StreamItem
from resolvers import audiences as resolve
from schema.audience import Audience
from schema.info import Info
from schema.scalars import Cursor


@strawberry.type(
    description=(
        "Somebody came to belong to an audience, or ceased to. userId, entered and at are as of then; audience is its "
        "state now. Needs VIEWER."
    )
)
class AudienceChange:
    user_id: str = strawberry.field(description="The host app's id of the person.")
    entered: bool = strawberry.field(description="True: belongs now. False: no longer.")
    at: datetime = strawberry.field(description="When it was noticed.")
    change: strawberry.Private[AudienceChangeRecord]

    @strawberry.field(description="The audience, as it is now; one that was deleted as it was last.")
    async def audience(self, info: Info) -> Audience:
        return Audience.of(await resolve.audience_of_change(info.context, change=self.change))

    @staticmethod
    def of(record: AudienceChangeRecord) -> AudienceChange:
        return AudienceChange(user_id=record.user_id, entered=record.entered, at=record.at, change=record)


@strawberry.type(description="A change and its position in the audiences lane. Needs VIEWER.")
class AudienceChangeEdge:
    cursor: Cursor = strawberry.field(description="Position of this change: valid as `after` of audienceChanges.")
    node: AudienceChange = strawberry.field(description="The change.")


def change_edge(item: StreamItem[AudienceChangeRecord]) -> AudienceChangeEdge:
    """A stream's item as its edge."""
    return AudienceChangeEdge(cursor=Cursor(item.cursor), node=AudienceChange.of(item.record))
