"""One operation of a checked document, with everything about it that no variable can change.

An `OperationPlan` is made once per document and operation and used by every request. It turns the variables of a
request into values: by compiled decoders where the product has one for a variable's type, by graphql-core's coercion
otherwise, and by graphql-core again whenever a decoder refuses, because the wording of its errors is the ordinary one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec
import orjson
from graphql import (
    DirectiveNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLObjectType,
    GraphQLSchema,
    Node,
    NonNullTypeNode,
    OperationDefinitionNode,
    OperationType,
    TypeNode,
    Undefined,
    VariableNode,
    Visitor,
    get_variable_values,
    visit,
)
from graphql.execution.collect_fields import FragmentDetails
from graphql.execution.get_variable_signature import GraphQLVariableSignature, get_variable_signature
from graphql.execution.values import VariableValues, VariableValueSource
from graphql.language import NamedTypeNode

from transport.application import InputDecoder
from transport.errors import RequestError
from transport.execution.cost import Cost, compile_cost
from transport.execution.weights import Weights

COERCION_ERRORS = 10
"""Echoed per request."""

KEPT_TEMPLATES = 16
"""Per operation: four variables that skip or include. Further combinations are collected anew each time."""

NO_VARIABLES = VariableValues({}, {})

T = TypeVar("T")

_RAW_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


class OperationPlan:
    """What is known of an operation before its variables are. Shared between requests: only its caches ever change."""

    def __init__(
        self, schema: GraphQLSchema, text: str, document: DocumentNode, operation: OperationDefinitionNode
    ) -> None:
        self.schema = schema
        self.text = text
        self.operation = operation
        self.kind: OperationType = operation.operation
        self.name = operation.name.value if operation.name else None
        self.root_type = _root_type(schema, operation)
        self.fragment_definitions = {
            node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
        }
        self.fragments = {name: FragmentDetails(node) for name, node in self.fragment_definitions.items()}
        self.definitions = tuple(operation.variable_definitions or ())
        self._collection_variables = sorted(_collection_variables([operation, *self.fragment_definitions.values()]))
        self._templates: dict[Hashable, Any] = {}
        self._selected_variables = sorted(_selected_variables(operation, self.fragment_definitions.values()))
        self._cost: Cost | None = None

    def cost(self, weights: Weights) -> Cost:
        """What the operation costs by the one table of weights that there is."""
        if self._cost is None:
            self._cost = compile_cost(self.schema, self.operation, self.fragment_definitions, weights)
        return self._cost

    def coerced(
        self, variables: Mapping[str, Any] | msgspec.Raw | None, decoders: Mapping[str, InputDecoder]
    ) -> VariableValues | list[GraphQLError]:
        """The values of the operation's variables, or why there are none.

        Raises `RequestError` if the text of the variables is no JSON object.
        """
        if not self.definitions:
            return NO_VARIABLES
        if isinstance(variables, msgspec.Raw):
            compiled = self._compiled(variables, decoders)
            return self._ordinary(_decoded(variables)) if compiled is None else compiled
        return self._ordinary(dict(variables or {}))

    def rendering_key(self, values: VariableValues) -> Hashable:
        """Equal for operations that give the same bytes for the same item: arguments of the root field do not count."""
        return (self.text, self.name, *(_source_of(values, name) for name in self._selected_variables))

    def template(self, values: VariableValues, make: Callable[[OperationPlan, VariableValues], T]) -> T:
        """What `make` gives for these values, kept as long as the same fields are selected by them.

        `make` is handed only the values that decide about that, so that nothing keeps a request's data alive.
        """
        key = tuple(values.coerced.get(name) for name in self._collection_variables)
        template: T | None = self._templates.get(key)
        if template is None:
            template = make(self, _restricted(values, self._collection_variables))
            if len(self._templates) < KEPT_TEMPLATES:
                self._templates[key] = template
        return template

    def _ordinary(self, inputs: dict[str, Any]) -> VariableValues | list[GraphQLError]:
        return get_variable_values(
            self.schema, self.definitions, inputs, max_errors=COERCION_ERRORS, hide_suggestions=True
        )

    def _compiled(
        self, variables: msgspec.Raw, decoders: Mapping[str, InputDecoder]
    ) -> VariableValues | list[GraphQLError] | None:
        """The values, as far as decoders apply; None if none does or one refuses."""
        if not any(_type_name(definition.type) in decoders for definition in self.definitions):
            return None
        texts = _raw_members(variables)
        decoded: dict[str, VariableValueSource] = {}
        for definition in self.definitions:
            decoder = decoders.get(_type_name(definition.type))
            text = texts.get(definition.variable.name.value)
            if decoder is None or text is None:
                continue
            try:
                value = decoder(bytes(text))
            except ValueError:
                return None
            signature = get_variable_signature(self.schema, definition)
            if not isinstance(signature, GraphQLVariableSignature):
                return None
            decoded[signature.name] = VariableValueSource(signature, value)
        return self._with_the_others(decoded, texts)

    def _with_the_others(
        self, decoded: dict[str, VariableValueSource], texts: Mapping[str, msgspec.Raw]
    ) -> VariableValues | list[GraphQLError]:
        others = [definition for definition in self.definitions if definition.variable.name.value not in decoded]
        if not others:
            return VariableValues(decoded, {name: source.value for name, source in decoded.items()})
        names = {definition.variable.name.value for definition in others}
        inputs = {name: orjson.loads(bytes(text)) for name, text in texts.items() if name in names}
        values = get_variable_values(self.schema, others, inputs, max_errors=COERCION_ERRORS, hide_suggestions=True)
        if isinstance(values, list):
            return values
        values.sources.update(decoded)
        values.coerced.update({name: source.value for name, source in decoded.items()})
        return values


def _root_type(schema: GraphQLSchema, operation: OperationDefinitionNode) -> GraphQLObjectType:
    root_type = schema.get_root_type(operation.operation)
    if root_type is None:
        raise RequestError(f"This schema has no {operation.operation.value} operations.")
    return root_type


def _decoded(variables: msgspec.Raw) -> dict[str, Any]:
    try:
        inputs = orjson.loads(bytes(variables))
    except orjson.JSONDecodeError:
        raise RequestError("`variables` are not valid JSON.") from None
    if not isinstance(inputs, dict):
        raise RequestError("`variables` must be an object or null.", ill_typed=True)
    return inputs


def _raw_members(variables: msgspec.Raw) -> dict[str, msgspec.Raw]:
    try:
        return _RAW_OBJECT.decode(variables)
    except msgspec.DecodeError:
        raise RequestError("`variables` must be an object or null.", ill_typed=True) from None


def _type_name(node: TypeNode) -> str:
    """The name of the type `T` or `T!`; a list has none, because decoders are for input types as such."""
    named = node.type if isinstance(node, NonNullTypeNode) else node
    return named.name.value if isinstance(named, NamedTypeNode) else ""


def _source_of(values: VariableValues, name: str) -> bytes | None:
    source = values.sources.get(name)
    if source is None or source.value is Undefined:
        return None
    return orjson.dumps(source.value, option=orjson.OPT_SORT_KEYS, default=repr)


class _VariableCollector(Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def enter_variable(self, node: VariableNode, *_: Any) -> None:
        self.names.add(node.name.value)


def _variables_in(nodes: Iterable[Node]) -> set[str]:
    collector = _VariableCollector()
    for node in nodes:
        visit(node, collector)
    return collector.names


def _selected_variables(operation: OperationDefinitionNode, fragments: Iterable[FragmentDefinitionNode]) -> set[str]:
    """Variables read anywhere but in the arguments of root fields."""
    nodes: list[Node] = list(fragments)
    for selection in operation.selection_set.selections:
        if isinstance(selection, FieldNode):
            nodes.extend(selection.directives or ())
            nodes.extend([selection.selection_set] if selection.selection_set else ())
        else:
            nodes.append(selection)
    return _variables_in(nodes)


class _ConditionCollector(Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.directives: list[DirectiveNode] = []

    def enter_directive(self, node: DirectiveNode, *_: Any) -> None:
        if node.name.value in ("skip", "include"):
            self.directives.append(node)


def _collection_variables(nodes: Iterable[Node]) -> set[str]:
    """Variables of `@skip` and `@include`: only they change which fields are collected."""
    collector = _ConditionCollector()
    for node in nodes:
        visit(node, collector)
    return _variables_in(collector.directives)


def _restricted(values: VariableValues, names: Iterable[str]) -> VariableValues:
    return VariableValues(
        {name: values.sources[name] for name in names if name in values.sources},
        {name: values.coerced[name] for name in names if name in values.coerced},
    )
