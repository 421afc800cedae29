"""Delivery filters as clients write them, checked and frozen for the engine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from db.delivery_filters import DeliveryFilter
from engine.dispatch.values import Channel, DeliveryStatus
from engine.node_ids import NodeKind, parse_node_id
from resolvers.filters import MAX_KEYS, MAX_NAMES, bad_input, check_instant, check_text, check_texts, read_names

MAX_ERROR_CODE_CHARACTERS = 200
"""Providers' words are far shorter."""


class DeliveryFilterArguments(msgspec.Struct, frozen=True):
    """DeliveryFilter as it comes in. Ids are node ids."""

    ids: Sequence[str] | None = None
    batch_id: str | None = None
    channels: Sequence[Channel] | None = None
    statuses: Sequence[DeliveryStatus] | None = None
    user_id: str | None = None
    workflow_id: str | None = None
    workflow_run_id: str | None = None
    endpoint_id: str | None = None
    event_types: Sequence[str] | None = None
    error_codes: Sequence[str] | None = None
    since: datetime | None = None
    until: datetime | None = None


NO_ARGUMENTS = DeliveryFilterArguments()


def read_delivery_filter(arguments: DeliveryFilterArguments | None) -> DeliveryFilter:
    """Raises `BadUserInput`, naming the part of the filter that can never work."""
    given = arguments or NO_ARGUMENTS
    ids = check_texts(given.ids, "filter.ids", limit=MAX_KEYS)
    return DeliveryFilter(
        ids=None if ids is None else tuple(_node(each, "filter.ids", NodeKind.DELIVERY) for each in ids),
        batch_id=_optional_node(given.batch_id, "filter.batchId", NodeKind.BATCH),
        channels=_values(given.channels),
        statuses=_values(given.statuses),
        user_id=check_text(given.user_id, "filter.userId"),
        workflow_id=_optional_node(given.workflow_id, "filter.workflowId", NodeKind.WORKFLOW),
        workflow_run_id=_optional_node(given.workflow_run_id, "filter.workflowRunId", NodeKind.WORKFLOW_RUN),
        endpoint_id=_optional_node(given.endpoint_id, "filter.endpointId", NodeKind.WEBHOOK_ENDPOINT),
        event_types=read_names(given.event_types, "filter.eventTypes", expand=True),
        error_codes=check_texts(
            given.error_codes, "filter.errorCodes", limit=MAX_NAMES, characters=MAX_ERROR_CODE_CHARACTERS
        ),
        since=check_instant(given.since, "filter.since"),
        until=check_instant(given.until, "filter.until"),
    )


def _optional_node(text: str | None, name: str, kind: NodeKind) -> UUID | None:
    return None if text is None else _node(text, name, kind)


def _node(text: str, name: str, kind: NodeKind) -> UUID:
    """Of another project it is as good as any: the filter looks only into the viewer's."""
    parsed = parse_node_id(text)
    if parsed is None or parsed.kind is not kind:
        raise bad_input(name, f"takes ids that begin with {kind.value}_, exactly as you received them.")
    return parsed.uuid


def _values(values: Sequence[Channel] | Sequence[DeliveryStatus] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(dict.fromkeys(each.value for each in values))
