"""What an operation costs, in points, known before any of it runs.

A field of a root type costs what the table of weights says, leaves and single objects nothing, and each object of a
list one point and what is inside it: a page is counted as large as it may become. So `people(first: 100)` with
`events(first: 10)` in each costs 1 + 100 × (1 + 10 × 1). A page size in a variable counts as what the variable holds;
fields that a variable skips cost nothing. Fields that merge count once; fragments for different types are added up.

A `Cost` is compiled once per operation and holds only what costs something: an operation without variables that matter
is one number. `actual` counts again over the answer: lists that returned less give the rest back.

What is weighed how is the product's business (`Weights`); whether somebody may spend so much is an `Account`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphql import (
    BooleanValueNode,
    DirectiveNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    NullValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_named_type,
    is_leaf_type,
)

from transport.errors import COST_EXCEEDED, RequestError
from transport.execution.weights import PerItem, Weights

LONGEST_PAGE = 100
"""What a list returns at most, whatever is asked for."""

USUAL_PAGE = 20
"""What a list returns that is not told how much."""

EDGES = "edges"
"""The field of a connection that holds its items."""

SIZES = ("first", "last")
IDENTIFIERS = "ids"
"""The argument of a field that returns one item for each."""

SHOWN_FIELDS = 3
"""In the explanation of a sum, of those in one place: the dearest. Who reads it looks for one to make smaller."""

SHOWN_LEVELS = 4
"""In the explanation, of lists within lists: four make anything too dear."""

NAME_LENGTH = 40
"""Characters of a name in the explanation: it may be an alias, and so as long as the document."""

Values = Mapping[str, Any]
"""Variables after coercion, by name; those with a default are always there."""

Size = int | Callable[[Values], int] | None
"""How many objects a list may hold: a number, or what variables say."""


class CostExceededError(RequestError):
    """An operation that costs more than any may. The message explains the sum."""

    def __init__(self, message: str, requested: int, maximum: int) -> None:
        super().__init__(message, COST_EXCEEDED)
        self.requested = requested
        self.maximum = maximum

    def as_graphql_error(self) -> GraphQLError:
        cost = {"requested": self.requested, "maximum": self.maximum}
        return GraphQLError(self.message, extensions={"code": self.code, "cost": cost})


Condition = tuple[str, bool]
"""A variable and what it must be for a field to be selected."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A field that costs something, or that leads to one."""

    name: str
    weight: int
    count: Callable[[Values], int] | None
    """A weight that depends on what is handed in."""
    size: Size
    """Of a list; None for what is there once."""
    conditions: tuple[Condition, ...]
    is_one_of: bool
    is_edges: bool
    """Of the connection that it is in."""
    parts: tuple[_Part, ...]

    def cost(self, values: Values) -> int:
        """Of the field and all that is inside."""
        if self.conditions and not self.is_selected(values):
            return 0
        own = self.weight if self.count is None else self.count(values)
        if self.size is None:
            return own + _sum(self.parts, values) if self.parts else own
        return own + self.page(values) * (1 + _sum(self.parts, values))

    def is_selected(self, values: Values) -> bool:
        return all(bool(values.get(name)) is wanted for name, wanted in self.conditions)

    def page(self, values: Values) -> int:
        """How many objects a list may hold."""
        if self.size is None:
            return 1
        return self.size if isinstance(self.size, int) else self.size(values)

    @property
    def is_constant(self) -> bool:
        varies = self.conditions or self.count is not None or not isinstance(self.size, int | None)
        return not varies and all(part.is_constant for part in self.parts)


class Cost:
    """What one operation costs."""

    __slots__ = ("_parts", "_total", "has_lists")

    def __init__(self, parts: tuple[_Part, ...]) -> None:
        self._parts = parts
        self._total = _sum(parts, {}) if all(part.is_constant for part in parts) else None
        self.has_lists = any(_holds_list(part) for part in parts)
        """Without one the answer cannot cost less than was asked for."""

    def of(self, values: Values) -> int:
        """Points, for these variables."""
        return _sum(self._parts, values) if self._total is None else self._total

    def inside(self, values: Values) -> int:
        """Of what is selected in the root fields: for a subscription, what one item of it costs in a list."""
        return sum(_sum(part.parts, values) for part in self._parts)

    def actual(self, data: Mapping[str, Any], values: Values) -> int:
        """What this answer was worth, at most what `of` says."""
        return min(_counted(self._parts, data, values), self.of(values))

    def explanation(self, values: Values) -> str:
        """How the sum comes about, its dearest parts first."""
        return _explained(self._parts, values, SHOWN_LEVELS)

    def check(self, values: Values, maximum: int) -> int:
        """The points. Raises `CostExceededError` where they are more than `maximum`."""
        requested = self.of(values)
        if requested > maximum:
            raise CostExceededError(
                f"An operation may cost at most {maximum:,} points, and this one costs {requested:,}: "
                f"{self.explanation(values)}. Ask for smaller pages, or for less in each.",
                requested,
                maximum,
            )
        return requested


def compile_cost(
    schema: GraphQLSchema,
    operation: OperationDefinitionNode,
    fragments: Mapping[str, FragmentDefinitionNode],
    weights: Weights,
) -> Cost:
    """The cost of a valid operation. Fragments are expanded: `limits` must have bounded its fields."""
    root_type = schema.get_root_type(operation.operation)
    if root_type is None:
        return Cost(())
    return Cost(_Compiler(schema, fragments, weights).root_parts(root_type, operation))


@dataclass(frozen=True, slots=True)
class _Selected:
    """Fields that merge: equal response names of one type under equal conditions."""

    parent: GraphQLNamedType
    definition: GraphQLField | None
    nodes: list[FieldNode]
    conditions: tuple[Condition, ...]


class _Compiler:
    """One walk over an operation."""

    def __init__(
        self, schema: GraphQLSchema, fragments: Mapping[str, FragmentDefinitionNode], weights: Weights
    ) -> None:
        self._schema = schema
        self._fragments = fragments
        self._weights = weights

    def root_parts(self, root_type: GraphQLObjectType, operation: OperationDefinitionNode) -> tuple[_Part, ...]:
        usual = self._weights.of_root(operation.operation)
        return self._parts(root_type, [operation.selection_set], None, usual)

    def _parts(
        self,
        parent: GraphQLNamedType,
        selection_sets: Sequence[SelectionSetNode],
        page: Size,
        usual: int = 0,
    ) -> tuple[_Part, ...]:
        """`page` is the size of the connection that `parent` is."""
        selected = self._selected(parent, selection_sets)
        made = (self._part(key[0], each, page, usual) for key, each in selected.items())
        return tuple(part for part in made if part is not None)

    def _part(self, name: str, selected: _Selected, page: Size, usual: int) -> _Part | None:
        node, definition, conditions = selected.nodes[0], selected.definition, selected.conditions
        if definition is None:  # __typename, __schema, __type
            return _Part(name, 1, None, None, conditions, False, False, ()) if usual else None
        place = f"{selected.parent.name}.{node.name.value}"
        weight = self._weights.fields.get(place, usual)
        is_edges = node.name.value == EDGES and page is not None
        size = page if is_edges else self._size(place, node, definition)
        is_connection = not is_edges and _is_connection(definition)
        parts = self._below(selected, definition, size if is_connection else None)
        size = None if is_connection else size
        if not weight and size is None and not parts:
            return None
        points, count = (weight, None) if isinstance(weight, int) else (0, _counter(weight, node))
        is_one_of = selected.parent.name in self._weights.one_of and bool(weight)
        return _Part(name, points, count, size, conditions, is_one_of, is_edges, parts)

    def _below(self, selected: _Selected, definition: GraphQLField, page: Size) -> tuple[_Part, ...]:
        below = [node.selection_set for node in selected.nodes if node.selection_set]
        return self._parts(get_named_type(definition.type), below, page) if below else ()

    def _size(self, place: str, node: FieldNode, definition: GraphQLField) -> Size:
        """How many objects a field gives, None for one that is there once."""
        arguments = {argument.name.value: argument.value for argument in node.arguments or ()}
        if is_leaf_type(get_named_type(definition.type)):
            return None
        if IDENTIFIERS in arguments:
            return _identifiers(arguments[IDENTIFIERS])
        if place in self._weights.sizes:
            return self._weights.sizes[place]
        if not _is_connection(definition):
            return None
        given = [arguments[name] for name in SIZES if name in arguments]
        given = [value for value in given if not isinstance(value, NullValueNode)]
        if not given:
            return USUAL_PAGE
        if not any(isinstance(value, VariableNode) for value in given):
            return max(_literal_size(value) for value in given)
        return _page_size(given)

    def _selected(
        self, parent: GraphQLNamedType, selection_sets: Iterable[SelectionSetNode]
    ) -> dict[tuple[str, str, tuple[Condition, ...]], _Selected]:
        found: dict[tuple[str, str, tuple[Condition, ...]], _Selected] = {}
        for of_type, node, conditions in self._fields(parent, selection_sets):
            response_name = (node.alias or node.name).value
            key = (response_name, of_type.name, conditions)
            if key in found:
                found[key].nodes.append(node)
            else:
                found[key] = _Selected(of_type, _definition(of_type, node), [node], conditions)
        return found

    def _fields(
        self, parent: GraphQLNamedType, selection_sets: Iterable[SelectionSetNode]
    ) -> Iterator[tuple[GraphQLNamedType, FieldNode, tuple[Condition, ...]]]:
        """The fields in one place with the type and the conditions that each is selected under; never those without."""
        places: list[tuple[GraphQLNamedType, SelectionSetNode, tuple[Condition, ...]]]
        places = [(parent, each, ()) for each in selection_sets]
        while places:
            of_type, selection_set, outer = places.pop()
            for selection in selection_set.selections:
                own = _conditions(selection.directives or ())
                if own is None:
                    continue
                conditions = tuple(sorted({*outer, *own}))
                if isinstance(selection, FieldNode):
                    yield of_type, selection, conditions
                elif isinstance(selection, InlineFragmentNode):
                    places.append((self._narrowed(of_type, selection), selection.selection_set, conditions))
                elif isinstance(selection, FragmentSpreadNode):
                    fragment = self._fragments[selection.name.value]
                    places.append((self._narrowed(of_type, fragment), fragment.selection_set, conditions))

    def _narrowed(
        self, of_type: GraphQLNamedType, fragment: InlineFragmentNode | FragmentDefinitionNode
    ) -> GraphQLNamedType:
        """An object type stays what it is under a condition that names one of its interfaces, so that fields merge."""
        if fragment.type_condition is None or isinstance(of_type, GraphQLObjectType):
            return of_type
        return self._schema.type_map[fragment.type_condition.name.value]


def _sum(parts: tuple[_Part, ...], values: Values) -> int:
    total = dearest = 0
    for part in parts:
        cost = part.cost(values)
        if part.is_one_of:
            dearest = max(dearest, cost)
        else:
            total += cost
    return total + dearest


def _holds_list(part: _Part) -> bool:
    return part.size is not None or part.is_one_of or any(_holds_list(inner) for inner in part.parts)


def _counted(parts: tuple[_Part, ...], data: Mapping[str, Any], values: Values) -> int:
    total = 0
    for part in parts:
        if part.name not in data:  # skipped, of another type, or cut: then it is counted in full by whoever holds it
            continue
        value = data[part.name]
        if value is None:
            total += 0 if part.is_one_of else _own(part, values)
        elif isinstance(value, list):
            total += _own(part, values) + _counted_list(part, value, values)
        else:
            total += _own(part, values) + (_counted(part.parts, value, values) if part.parts else 0)
    return total


def _counted_list(part: _Part, items: list[Any], values: Values) -> int:
    total = 0 if part.size is None else len(items)
    if part.parts:
        total += sum(_counted(part.parts, item, values) for item in items if isinstance(item, dict))
    return total


def _own(part: _Part, values: Values) -> int:
    return part.weight if part.count is None else part.count(values)


def _explained(parts: Iterable[_Part], values: Values, levels: int) -> str:
    costs = sorted(((part.cost(values), part) for part in _visible(parts)), key=lambda pair: -pair[0])
    dearest = next((part for _, part in costs if part.is_one_of), None)
    dear = [(cost, part) for cost, part in costs if cost and (part is dearest or not part.is_one_of)]
    shown = [_explained_part(part, values, levels) for _, part in dear[:SHOWN_FIELDS]]
    rest = sum(cost for cost, _ in dear[SHOWN_FIELDS:])
    return " + ".join([*shown, f"{rest:,} for the rest"] if rest else shown)


def _explained_part(part: _Part, values: Values, levels: int) -> str:
    own = _own(part, values)
    pieces = [f"{own:,}"] if own else []
    lists = [part] if part.size is not None else [inner for inner in part.parts if inner.is_edges]
    for items in lists:
        inner = _sum(items.parts, values)
        within = _explained(items.parts, values, levels - 1) if inner and levels > 1 else f"{inner:,}"
        pieces.append(f"{items.page(values)} × (1 + {within})" if inner else f"{items.page(values)} × 1")
    if part.size is None and (others := [inner for inner in part.parts if not inner.is_edges]):
        pieces.append(_explained(others, values, levels - 1) if levels > 1 else f"{_sum(tuple(others), values):,}")
    return f"{_cut(part.name)} {' + '.join(pieces)}"


def _visible(parts: Iterable[_Part]) -> Iterator[_Part]:
    """Without those that only lead to others, such as the node of an edge."""
    for part in parts:
        if part.weight or part.count or part.size is not None or any(inner.is_edges for inner in part.parts):
            yield part
        else:
            yield from _visible(part.parts)


def _cut(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"{name[:NAME_LENGTH]}…"


def _definition(parent: GraphQLNamedType, node: FieldNode) -> GraphQLField | None:
    if isinstance(parent, GraphQLObjectType | GraphQLInterfaceType):
        found: GraphQLField | None = parent.fields.get(node.name.value)
        return found
    return None


def _is_connection(definition: GraphQLField) -> bool:
    named = get_named_type(definition.type)
    return isinstance(named, GraphQLObjectType) and EDGES in named.fields


def _conditions(directives: Iterable[DirectiveNode]) -> list[Condition] | None:
    """What `@skip` and `@include` ask of variables; None where they leave the field out whatever those are."""
    conditions: list[Condition] = []
    for directive in directives:
        if directive.name.value not in ("skip", "include"):
            continue
        wanted = directive.name.value == "include"
        for argument in directive.arguments or ():
            if isinstance(argument.value, VariableNode):
                conditions.append((argument.value.name.value, wanted))
            elif isinstance(argument.value, BooleanValueNode) and argument.value.value is not wanted:
                return None
    return conditions


def _literal_size(value: ValueNode) -> int:
    if isinstance(value, IntValueNode) and len(value.value) <= len(str(LONGEST_PAGE)):
        return min(max(int(value.value), 0), LONGEST_PAGE)
    return LONGEST_PAGE


def _page_size(given: Sequence[ValueNode]) -> Callable[[Values], int]:
    """The page size that variables decide. One that is absent or null is as if the argument were."""
    names = [value.name.value for value in given if isinstance(value, VariableNode)]
    known = [_literal_size(value) for value in given if not isinstance(value, VariableNode)]

    def size(values: Values) -> int:
        found = [values.get(name) for name in names]
        sizes = known + [min(max(each, 0), LONGEST_PAGE) for each in found if isinstance(each, int)]
        return max(sizes, default=USUAL_PAGE)

    return size


def _identifiers(value: ValueNode) -> int | Callable[[Values], int]:
    if isinstance(value, ListValueNode):
        return len(value.values)
    if not isinstance(value, VariableNode):
        return 0 if isinstance(value, NullValueNode) else 1
    name = value.name.value

    def size(values: Values) -> int:
        found = values.get(name)
        return len(found) if isinstance(found, list | tuple) else 0

    return size


def _counter(weight: PerItem, node: FieldNode) -> Callable[[Values], int]:
    """What a field costs that is paid by what is handed in; one point where nothing is."""
    value = next((each.value for each in node.arguments or () if each.name.value == weight.argument), None)
    counted = _count(weight, value)
    return lambda values: max(1, -(-counted(values) // weight.per))


def _count(weight: PerItem, value: ValueNode | None) -> Callable[[Values], int]:
    if isinstance(value, VariableNode):
        name = value.name.value
        return lambda values: weight.count(values[name]) if values.get(name) is not None else 0
    if not isinstance(value, ObjectValueNode):
        return lambda _values: 0
    member = next((each.value for each in value.fields if each.name.value == weight.member), None)
    if isinstance(member, ListValueNode):
        given = len(member.values)
        return lambda _values: given
    if isinstance(member, VariableNode):
        name = member.name.value
        return lambda values: len(values.get(name) or ())
    return lambda _values: 1
