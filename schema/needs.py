"""The directive `@needs`: which role a field or a type asks for, in the SDL.

It is stated once, in the sentence of a description that begins with "Needs": people read the sentence, and programs the
directive that is made of it here. A test walks the schema as everybody there is and holds what happens to it.

A field needs what it says itself, else what its type says, else what the field says that leads to it.
"""

from __future__ import annotations

import re
from typing import Any, Final

import strawberry
from graphql import GraphQLInterfaceType, GraphQLObjectType, GraphQLSchema
from strawberry.schema_directive import Location

from engine.identity import Role

OR_OWN: Final = "or the person's own session"
OR_WRITER: Final = "INGEST sees what"
AS_MEMBER: Final = "as a member"
_SENTENCE: Final = re.compile(r"\bNeeds (INGEST|VIEWER|EDITOR|ADMIN)\b")
_DEFINITION: Final = "strawberry-definition"


@strawberry.schema_directive(
    locations=[Location.FIELD_DEFINITION, Location.OBJECT, Location.INTERFACE],
    description=(
        "Who may read it; for everybody else it is null with FORBIDDEN. A field needs what it says itself, else what "
        "its type says, else what the field says that leads to it. orOwn: a person's own session reads it too. "
        "orWriter: INGEST sees of it what it wrote itself. asMember: no API key is enough."
    ),
)
class Needs:
    role: Role = strawberry.directive_field(name="role")
    or_own: bool | None = strawberry.directive_field(name="orOwn", default=strawberry.UNSET)
    or_writer: bool | None = strawberry.directive_field(name="orWriter", default=strawberry.UNSET)
    as_member: bool | None = strawberry.directive_field(name="asMember", default=strawberry.UNSET)


def read_needs(description: str | None) -> Needs | None:
    """What a description asks for; None where it asks for nothing of its own."""
    text = description or ""
    said = _SENTENCE.search(text)
    if said is None:
        return None
    return Needs(
        role=Role[said[1]],
        or_own=OR_OWN in text or strawberry.UNSET,
        or_writer=OR_WRITER in text or strawberry.UNSET,
        as_member=AS_MEMBER in text or strawberry.UNSET,
    )


def state_needs(schema: GraphQLSchema) -> None:
    """Give types and fields the directive that their descriptions state. Doing it twice does nothing more."""
    for graphql_type in schema.type_map.values():
        if isinstance(graphql_type, GraphQLObjectType | GraphQLInterfaceType):
            _state(graphql_type)
            for field in graphql_type.fields.values():
                _state(field)


def _state(described: Any) -> None:
    definition, needs = described.extensions.get(_DEFINITION), read_needs(described.description)
    if definition is None or needs is None:
        return
    directives = list(definition.directives or ())
    if not any(isinstance(each, Needs) for each in directives):
        definition.directives = [*directives, needs]
