"""What the product says that its fields cost: handed in with its schema, read by `cost.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphql import OperationType


@dataclass(frozen=True, slots=True)
class PerItem:
    """The weight of a field that is paid by what is handed in: one point for each `per` items that have begun.

    They stand in `member` of the input object `argument`; `count` counts those of an input object that was coerced.
    """

    argument: str
    member: str
    per: int
    count: Callable[[Any], int]


@dataclass(frozen=True, slots=True)
class Weights:
    """What the product says that its fields cost. Names are `Type.field`.

    Fields of root types that are not named cost what stands here for their operation; all others nothing.
    """

    fields: Mapping[str, int | PerItem] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    """How many objects a list without a page size is taken to hold. One that is not named comes with its object."""
    one_of: frozenset[str] = frozenset()
    """Types of which one weighted field gives something, and the others null: the dearest counts."""
    query: int = 1
    mutation: int = 10
    subscription: int = 10

    def of_root(self, kind: OperationType) -> int:
        """What a field of a root type costs that is not named."""
        return {
            OperationType.QUERY: self.query,
            OperationType.MUTATION: self.mutation,
            OperationType.SUBSCRIPTION: self.subscription,
        }[kind]
