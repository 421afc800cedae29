"""Data that benchmarks of questions about people share: a log of people's events, the same at every run.

Shape: `events` events of a twentieth as many people (1,000,000 of 50,000) over the 90 days before `END`, evenly spread;
some people do much more than others (a tenth of them does a third of it all). Types: page.viewed 40 %, product.viewed
25 %, cart.updated 15 %, order.placed 10 %, search.performed 5 %, session.started 5 %. Properties take about 110 bytes:
an amount, a source of six, an order id, and what nobody asks for. Every fourth person is anonymous in the first half of
the log and carries both ids in the second. Everybody has a profile with a plan of three.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    import asyncpg

END = datetime(2026, 6, 1, tzinfo=UTC)
DAYS = 90
EVENTS_A_PERSON = 20

_EVENTS = """
INSERT INTO events (
    project_id, seq, batch_token, timestamp, received_at, key, module, event_type, user_id, anonymous_id, properties,
    context
)
SELECT $1, n, 1, at, at, 'event-' || n, 'analytics',
    CASE WHEN kind < 40 THEN 'page.viewed' WHEN kind < 65 THEN 'product.viewed' WHEN kind < 80 THEN 'cart.updated'
        WHEN kind < 90 THEN 'order.placed' WHEN kind < 95 THEN 'search.performed' ELSE 'session.started' END,
    CASE WHEN person % 4 > 0 OR n > $2 / 2 THEN 'user-' || person END,
    CASE WHEN person % 4 = 0 THEN 'anonymous-' || person END,
    jsonb_build_object(
        'amount', kind * 7 % 500, 'source', (ARRAY['mail', 'ads', 'search', 'push', 'direct', 'link'])[kind % 6 + 1],
        'orderId', 'order-' || n % 977, 'path', '/products/' || n % 500 || '/details'
    ), '{}'
FROM (
    SELECT n, $3::timestamptz + $4::interval * (n::float8 / $2) AS at,
        floor($5 * power((hashint8extended(n, 1) & 1048575) / 1048576.0::float8, 1.5))::bigint AS person,
        (hashint8extended(n, 2) & 1048575) * 100 / 1048576 AS kind
    FROM generate_series($6::bigint + 1, $7::bigint) AS n
) AS given"""
_LINKS = """
INSERT INTO identity_links (project_id, kind, alias, user_id, linked_seq)
SELECT DISTINCT ON (anonymous_id) $1, 'ANONYMOUS_ID', anonymous_id, user_id, seq
FROM events
WHERE project_id = $1 AND user_id IS NOT NULL AND anonymous_id IS NOT NULL
ORDER BY anonymous_id, seq"""
_PROFILES = """
INSERT INTO profiles (project_id, profile_id, user_id, traits)
SELECT $1, gen_random_uuid(), user_id,
    jsonb_build_object('plan', (ARRAY['free', 'pro', 'team'])[(hashtext(user_id) & 65535) % 3 + 1])
FROM (SELECT DISTINCT user_id FROM events WHERE project_id = $1 AND user_id IS NOT NULL) AS people"""
_CHUNK = 100_000


async def fill_log(connection: asyncpg.Connection, *, project_id: UUID, events: int) -> None:
    """Write the log of an empty project. The project must be there; its head is not moved."""
    for first in range(0, events, _CHUNK):
        await connection.execute(
            _EVENTS,
            project_id,
            events,
            END - timedelta(days=DAYS),
            timedelta(days=DAYS),
            events // EVENTS_A_PERSON,
            first,
            min(first + _CHUNK, events),
            timeout=600,
        )
    await connection.execute(_LINKS, project_id, timeout=600)
    await connection.execute(_PROFILES, project_id, timeout=600)
    await connection.execute("VACUUM ANALYZE events, identity_links, profiles", timeout=600)
