"""Which deliveries: one filter for lists (`deliveries AS d`) and for their lane (`delivery_transitions AS t`).

Values travel as parameters, never in the text.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from db.filter_terms import all_of, compare, equal_any, like_any


class DeliveryFilter(msgspec.Struct, frozen=True):
    """Which deliveries. Everything given must hold; a list given must hold the value, so an empty one matches nothing.

    `event_types` are canonical names (aliases already replaced) and wildcards; a delivery that no event caused matches
    none of them. `since` (inclusive) and `until` (exclusive) are about when the delivery was made. For an item of the
    lane, `statuses` and `error_codes` are about what that step led to. `of_runs`: only what runs of workflows made.
    """

    ids: tuple[UUID, ...] | None = None
    batch_id: UUID | None = None
    channels: tuple[str, ...] | None = None
    statuses: tuple[str, ...] | None = None
    user_id: str | None = None
    workflow_id: UUID | None = None
    workflow_run_id: UUID | None = None
    endpoint_id: UUID | None = None
    event_types: tuple[str, ...] | None = None
    error_codes: tuple[str, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None
    of_runs: bool = False


EVERY_DELIVERY = DeliveryFilter()


def delivery_filter_sql(delivery_filter: DeliveryFilter, parameters: list[Any]) -> str:
    """A boolean SQL expression over `deliveries AS d`; appends its values to `parameters`, refers to them as $n."""
    return _sql(delivery_filter, parameters, alias="d", status="status")


def transition_filter_sql(delivery_filter: DeliveryFilter, parameters: list[Any]) -> str:
    """The same over `delivery_transitions AS t`: `statuses` are those that a transition led to."""
    return _sql(delivery_filter, parameters, alias="t", status="to_status")


def is_selective(delivery_filter: DeliveryFilter) -> bool:
    """Whether an index of the lane leads straight to what matches, so that a page costs what it finds."""
    return delivery_filter.ids is not None or delivery_filter.user_id is not None


def _sql(delivery_filter: DeliveryFilter, parameters: list[Any], *, alias: str, status: str) -> str:
    return all_of(
        [
            equal_any(f"{alias}.delivery_id", delivery_filter.ids, parameters),
            compare(f"{alias}.batch_id =", delivery_filter.batch_id, parameters),
            equal_any(f"{alias}.channel", delivery_filter.channels, parameters),
            equal_any(f"{alias}.{status}", delivery_filter.statuses, parameters),
            compare(f"{alias}.user_id =", delivery_filter.user_id, parameters),
            compare(f"{alias}.workflow_id =", delivery_filter.workflow_id, parameters),
            compare(f"{alias}.workflow_run_id =", delivery_filter.workflow_run_id, parameters),
            compare(f"{alias}.endpoint_id =", delivery_filter.endpoint_id, parameters),
            like_any(f"{alias}.event_type", delivery_filter.event_types, parameters),
            equal_any(f"{alias}.error_code", delivery_filter.error_codes, parameters),
            compare(f"{alias}.created_at >=", delivery_filter.since, parameters),
            compare(f"{alias}.created_at <", delivery_filter.until, parameters),
            f"{alias}.workflow_run_id IS NOT NULL" if delivery_filter.of_runs else "",
        ]
    )
