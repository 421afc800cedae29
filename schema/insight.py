"""Insights: questions about people that are kept, and asked again whenever they are looked at."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import strawberry

from db.insights import InsightRecord
from engine.analytics.insights import MAX_NAME_CHARACTERS, InsightKind
from engine.errors import UserError as EngineUserError
from engine.node_ids import NodeKind, write_node_id
from resolvers import insights as resolve
from resolvers.paging import Page
from schema.descriptions import described_enum
from schema.errors import MutationPayload, user_errors
from schema.funnel import FunnelInput, FunnelReport
from schema.info import Info
from schema.inputs import keep_mapping
from schema.node import Node
from schema.paging import PageInfo, edges_of
from schema.retention import RetentionInput, RetentionReport
from schema.scalars import JSON, Cursor
from schema.trend import TrendInput, TrendReport

described_enum(
    InsightKind,
    "What an insight asks.",
    FUNNEL="How far people come through a sequence of steps.",
    RETENTION="Who comes back.",
    TREND="How much of something happens.",
)


@strawberry.type(description="A question that is kept, and asked again whenever it is looked at. Needs VIEWER.")
class Insight(Node):
    name: str = strawberry.field(description=f"1 to {MAX_NAME_CHARACTERS} characters, once per project.")
    kind: InsightKind = strawberry.field(description="Which of funnel, retention and trend is not null.")
    input: JSON = strawberry.field(description="The FunnelInput, RetentionInput or TrendInput, as it was saved.")
    updated_at: datetime = strawberry.field(description="When it was last saved.")
    record: strawberry.Private[InsightRecord]

    @strawberry.field(description="Runs it now. Null of another kind, or with an error that says why. Needs VIEWER.")
    async def funnel(self, info: Info) -> FunnelReport | None:
        report = await resolve.funnel_of(info.context, insight=self.record)
        return None if report is None else FunnelReport.of(report)

    @strawberry.field(description="Runs it now. Null of another kind, or with an error that says why. Needs VIEWER.")
    async def retention(self, info: Info) -> RetentionReport | None:
        cohorts = await resolve.retention_of(info.context, insight=self.record)
        return None if cohorts is None else RetentionReport.of(cohorts)

    @strawberry.field(description="Runs it now. Null of another kind, or with an error that says why. Needs VIEWER.")
    async def trend(self, info: Info) -> TrendReport | None:
        report = await resolve.trend_of(info.context, insight=self.record)
        return None if report is None else TrendReport.of(report)

    @staticmethod
    def of(record: InsightRecord) -> Insight:
        return Insight(
            id=strawberry.ID(write_node_id(NodeKind.INSIGHT, record.insight_id)),
            name=record.name,
            kind=InsightKind(record.kind),
            input=JSON(record.input),
            updated_at=record.updated_at,
            record=record,
        )


@strawberry.type(description="An insight and its position in a list. Needs VIEWER.")
class InsightEdge:
    cursor: Cursor = strawberry.field(description="Position in lists of insights.")
    node: Insight = strawberry.field(description="The insight.")


@strawberry.type(description="A page of insights, by name. Needs VIEWER.")
class InsightConnection:
    edges: list[InsightEdge] = strawberry.field(description="Up to 100 insights.")
    page_info: PageInfo = strawberry.field(description="Where this page stands in the list.")

    @staticmethod
    def of(page: Page[InsightRecord]) -> InsightConnection:
        return InsightConnection(edges=edges_of(page, InsightEdge, Insight.of), page_info=PageInfo.of(page))


@strawberry.input(
    description=(
        "With id, what is absent or null stays as it is. Without, an insight is made. At most one of funnel, retention "
        "and trend; one that is given replaces what the insight asked."
    )
)
class SaveInsightInput:
    id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="Which to change.")
    name: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=f"1 to {MAX_NAME_CHARACTERS} characters, once per project. Needed when it is made.",
    )
    funnel: FunnelInput | None = strawberry.field(default=strawberry.UNSET, description="Ask this.")
    retention: RetentionInput | None = strawberry.field(default=strawberry.UNSET, description="Or this.")
    trend: TrendInput | None = strawberry.field(default=strawberry.UNSET, description="Or this.")


keep_mapping(SaveInsightInput)

SaveInsightArguments = dict[str, Any]
"""The input as it was coerced: what is absent is not in it."""


@strawberry.type(description="Outcome of saveInsight; whoever may save sees it. Needs EDITOR.")
class SaveInsightPayload(MutationPayload):
    insight: Insight | None = strawberry.field(description="As it is now; null when nothing was changed.")

    @staticmethod
    def of(record: InsightRecord | None, errors: tuple[EngineUserError, ...]) -> SaveInsightPayload:
        return SaveInsightPayload(
            insight=None if record is None else Insight.of(record), user_errors=user_errors(errors)
        )
