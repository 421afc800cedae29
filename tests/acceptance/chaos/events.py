"""What is written and what is watched for: events with a meaning, and filters that are said twice.

A filter is GraphQL for the gateway and SQL for the judge: the code under test has no part in what is expected.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

TYPES = ("order.placed", "order.paid", "push.sent", "push.failed", "page.viewed")
USERS = ("ann", "bob", "eve", None)
MODULES = ("shop", "analytics")
LARGE = 20_000
"""Characters of the padding of some events: enough of them fill a gateway's buffer for a client that is slow."""
LARGE_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class Taste:
    """What a subscriber wants, for the gateway and for the judge."""

    name: str
    event_filter: dict[str, Any] | None
    sql: str


TASTES = (
    Taste("everything", None, "true"),
    Taste("one user", {"userId": "bob"}, "user_id = 'bob'"),
    Taste("types by wildcard", {"eventTypes": ["order.*"]}, "event_type LIKE 'order.%'"),
    Taste(
        "types by suffix and name",
        {"eventTypes": ["*.failed", "page.viewed"]},
        "(event_type LIKE '%.failed' OR event_type = 'page.viewed')",
    ),
    Taste("module and user", {"modules": ["shop"], "userId": "ann"}, "module = 'shop' AND user_id = 'ann'"),
    Taste(
        "large amounts",
        {"where": [{"path": "event.properties.amount", "op": "GT", "value": 50}]},
        "(properties->>'amount')::numeric > 50",
    ),
    Taste(
        "rare",
        {"userId": "eve", "where": [{"path": "event.properties.amount", "op": "EQ", "value": 7}]},
        "user_id = 'eve' AND (properties->>'amount')::numeric = 7",
    ),
    Taste("nobody", {"userId": "nobody"}, "false"),
)


def random_event(chance: random.Random, key: str) -> dict[str, Any]:
    """An `EventInput`."""
    event: dict[str, Any] = {
        "id": key,
        "eventType": chance.choice(TYPES),
        "module": chance.choice(MODULES),
        "properties": {"amount": chance.randrange(100)},
    }
    user = chance.choice(USERS)
    if user is not None:
        event["userId"] = user
    if user is not None and chance.random() < 0.1:
        event["traits"] = {chance.choice(["plan", "city"]): chance.randrange(5)}
    if chance.random() < LARGE_SHARE:
        event["context"] = {"padding": "x" * LARGE}
    return event
