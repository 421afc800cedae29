"""What an audience asks of people: from conditions as clients write them to what is stored, and back into values.

Guarantees: what was stored can be read for ever: reading checks nothing that a later release may make stricter than
the one that stored it did, except for what could not be evaluated at all. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from db.audiences import AudienceRecord
from db.filters import Condition
from engine.conditions import parse_conditions, unparse_conditions

ROOTS = frozenset({"profile", "events"})
"""What conditions of an audience may test: people, and counts of their events."""


def read_where(where: Sequence[Mapping[str, Any]]) -> tuple[Condition, ...]:
    """Conditions as clients write them. Raises `InvalidCondition`, whose path begins with `input`."""
    return parse_conditions(where, roots=ROOTS, path=("input", "where"))


def encode_conditions(conditions: Sequence[Condition]) -> str:
    """As they are stored, and shown: JSON of the shape of their input."""
    return msgspec.json.encode(unparse_conditions(conditions)).decode()


@lru_cache(maxsize=1024)
def decode_conditions(text: str) -> tuple[Condition, ...]:
    """What was encoded."""
    return parse_conditions(msgspec.json.decode(text), roots=ROOTS, path=("where",))


def conditions_of(audience: AudienceRecord) -> tuple[Condition, ...]:
    """What an audience asks of its members."""
    return decode_conditions(bytes(audience.conditions).decode())
