"""Input types whose values are built by us, not by Strawberry's field-by-field conversion.

Strawberry calls `from_input` of a type's definition with the value that graphql-core has coerced: names of GraphQL,
scalars parsed, defaults filled in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from strawberry.types.arguments import InputContext
from strawberry.types.base import get_object_definition


def build_with(input_type: type, build: Callable[[Any], object]) -> None:
    """Let values of an input type be made by `build` from the coerced mapping."""

    def from_input(_cls: type, value: Any, _context: InputContext) -> object:
        return build(value)

    get_object_definition(input_type, strict=True).from_input = from_input


def keep_mapping(input_type: type) -> None:
    """Let values of an input type stay the coerced mapping itself."""
    build_with(input_type, lambda value: value)
