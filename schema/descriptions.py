"""Enums that know nothing of GraphQL, given to the schema with a description on each value."""

from __future__ import annotations

from enum import Enum

import strawberry

TO_AUDIENCE = (
    "Everybody who belongs to an audience when this is due, once each. A large one is gone through by and by: follow "
    "the batch. Whoever is named besides gets no second one."
)
"""Of audienceId, wherever something is sent."""


def described_enum(enum: type[Enum], description: str, *, name: str | None = None, **values: str) -> None:
    """Make an enum a type of the schema. `values` describes each of its members, by name; none may be left out."""
    missing = set(enum.__members__) - set(values)
    if missing:
        raise TypeError(f"{enum.__name__} lacks a description of {', '.join(sorted(missing))}")
    strawberry.enum(enum, name=name, description=description)
    for value in enum.__strawberry_definition__.values:  # type: ignore[attr-defined]
        value.description = values[value.name]
