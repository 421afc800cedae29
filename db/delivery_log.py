"""Reading the deliveries lane of the log.

Guarantees: a page and the head it is judged by come from one snapshot. The statement is composed of constants; whatever
a caller supplies is a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from db.delivery_filters import EVERY_DELIVERY, DeliveryFilter, is_selective, transition_filter_sql
from db.delivery_records import TransitionPage, TransitionRecord
from db.records import HeadRecord, Lane

if TYPE_CHECKING:
    import asyncpg

MAX_SCANNED = 50_000
"""How many positions one page looks at when no index leads to its matches: less than 100 ms of one backend."""

_COLUMNS = (
    "t.project_id, t.seq, t.delivery_id, t.from_status, t.to_status, t.at, t.attempt_number, t.batch_id, t.channel,"
    " t.user_id, t.workflow_id, t.workflow_run_id, t.endpoint_id, t.event_type, t.error_code, t.created_at"
)


async def read_transition_page(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    after: int,
    limit: int,
    delivery_filter: DeliveryFilter = EVERY_DELIVERY,
) -> TransitionPage:
    """Up to `limit` matching transitions with seq > `after`, oldest first, and the head row.

    A page may be short, or empty, before the end: go on from `reached` until it is `head.head`. Compare `after` with
    `head.first_seq`: what lies below was removed. Raises `LookupError` for an unknown project.
    """
    window = MAX_SCANNED if delivery_filter != EVERY_DELIVERY and not is_selective(delivery_filter) else None
    parameters: list[Any] = [project_id, after, limit, window, Lane.DELIVERIES]
    text = f"""
        SELECT h.lane, h.head, h.first_seq, h.epoch, b.last, page.*
        FROM heads AS h
        CROSS JOIN LATERAL (SELECT least(h.head, $2::bigint + $4::bigint) AS last) AS b
        LEFT JOIN LATERAL (
            SELECT {_COLUMNS}
            FROM delivery_transitions AS t
            WHERE t.project_id = $1 AND t.seq > $2 AND t.seq <= b.last
                AND {transition_filter_sql(delivery_filter, parameters)}
            ORDER BY t.seq
            LIMIT $3
        ) AS page ON true
        WHERE h.project_id = $1 AND h.lane = $5
        ORDER BY page.seq"""  # noqa: S608
    rows = await connection.fetch(text, *parameters)
    if not rows:
        raise LookupError("unknown project")
    head = HeadRecord(project_id, Lane(rows[0]["lane"]), rows[0]["head"], rows[0]["first_seq"], rows[0]["epoch"])
    transitions = tuple(_transition(row) for row in rows if row["seq"] is not None)
    reached = transitions[-1].seq if len(transitions) == limit else max(after, rows[0]["last"])
    return TransitionPage(transitions, reached, head)


def _transition(row: Mapping[str, Any]) -> TransitionRecord:
    return TransitionRecord(
        row["project_id"],
        row["seq"],
        row["delivery_id"],
        row["from_status"],
        row["to_status"],
        row["at"],
        row["attempt_number"],
        row["batch_id"],
        row["channel"],
        row["user_id"],
        row["workflow_id"],
        row["workflow_run_id"],
        row["endpoint_id"],
        row["event_type"],
        row["error_code"],
        row["created_at"],
    )
