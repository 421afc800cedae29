"""What fields cost: the one table of weights, which a test holds against the schema.

A page of a list costs one point for each object that it may hold, and what is inside each; that needs no entry. What is
named here costs more, or less, than `transport/execution/cost.py` would say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from types import MappingProxyType

from resolvers.tracking import EventBatch

QUESTION = 100
"""Points of a question about people: it reads up to millions of events, a hundred times what a page of 100 reads."""

COUNT = 10
"""Points of what is counted when it is asked for, up to 10,000 rows."""

WEIGHTS: Mapping[str, int] = MappingProxyType(
    {
        # what apps send all day
        "Mutation.track": 1,
        "Mutation.identify": 1,
        "Mutation.trackPush": 1,
        # questions, wherever they are asked
        "Query.funnel": QUESTION,
        "Query.retention": QUESTION,
        "Query.trend": QUESTION,
        "Insight.funnel": QUESTION,
        "Insight.retention": QUESTION,
        "Insight.trend": QUESTION,
        "Subscription.funnelUpdates": QUESTION,
        # counts
        "Query.deliveryStats": COUNT,
        "Query.deliveryHealth": COUNT,
        "EventConnection.totalCount": COUNT,
        "DeliveryConnection.totalCount": COUNT,
        "ProfileConnection.totalCount": COUNT,
        "WorkflowRunConnection.totalCount": COUNT,
        "Workflow.stats": COUNT,
        # every workflow of the project
        "Query.exportWorkflows": COUNT,
    }
)
"""By `Type.field`. Fields of Query that are not named cost 1, those of Mutation and Subscription 10, all others 0."""

BATCH_FIELD = "Mutation.trackBatch"
BATCH_ARGUMENT, BATCH_MEMBER = "input", "events"
EVENTS_PER_POINT = 10
"""Of a batch: ten events in one transaction are hardly more than one."""

SIZES: Mapping[str, int] = MappingProxyType(
    {
        "Query.senderDomains": 10,
        "Query.providers": 10,
        "Query.inboundEndpoints": 10,
        "Query.workflowBlueprints": 10,
        "Query.boards": 10,
        "Board.insights": 10,
        "Project.apiKeys": 10,
        "Organization.projects": 10,
        "Profile.pushTokens": 5,
        "Profile.audiences": 5,
        "Delivery.attempts": 5,
        "DeliveryHealth.recentFailures": 10,
        "WorkflowRun.trace": 10,
        "WorkflowRun.deliveries": 5,
        "SendPayload.deliveries": 10,
        "ReplayPayload.deliveries": 10,
        "TestRunWorkflowPayload.trace": 10,
        "ImportWorkflowsPayload.created": 10,
        "ImportWorkflowsPayload.updated": 10,
        "ImportWorkflowsPayload.unchanged": 10,
        "ImportWorkflowsPayload.createdAudiences": 10,
        "ImportWorkflowsPayload.updatedAudiences": 10,
        "ImportWorkflowsPayload.unchangedAudiences": 10,
    }
)
"""How many objects a list without a page size is taken to hold: about as many as there usually are. A list that is not
named comes with its object, in the same row."""

ONE_OF = frozenset({"Insight"})
"""Types whose questions exclude each other: an insight is of one kind."""


def count_events(batch: EventBatch | Mapping[str, Sized]) -> int:
    """How many events a coerced TrackBatchInput holds, whichever way it was coerced."""
    return len(batch.drafts) if isinstance(batch, EventBatch) else len(batch[BATCH_MEMBER])
