"""Bounds on GraphQL documents, checked in one pass over the tree before validation may look at it.

Validation is quadratic in places and expands fragments; so everything that could make it slow is refused first: the
number of tokens while parsing, then operations, fragment cycles, depth, aliases, repeats of a field, directives, and
the fields that remain when every fragment spread is replaced by its fragment. So is what would be slow to answer: more
items of lists than one answer should hold. Each definition is walked once and each fragment's sums are remembered, so
921 bytes of fragments that double fourteen times cost fourteen additions.

`check_document` raises `LimitExceededError`, whose message says what the limit is. Time and bytes are limited
elsewhere, by the numbers given here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from graphql import (
    DirectiveNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    NullValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    TokenKind,
    ValueNode,
)

from transport.errors import BAD_USER_INPUT, COST_EXCEEDED, DEPTH_EXCEEDED, VALIDATION_FAILED, RequestError
from transport.execution.json_bounds import NUMBER_TOO_LARGE, fits_in_64_bits

DEFINITIONS_FACTOR = 10
"""Fields of all definitions against those of one operation: compiled documents repeat fragments within fragments."""

LONGEST_PAGE = 100
"""What a list returns at most, whatever is asked for. A size that stands in a variable counts as this."""

USUAL_PAGE = 20
"""What a list returns that is not told how much."""

EDGES = "edges"
"""The field of a connection that holds its items."""

SIZES = ("first", "last")
IDENTIFIERS = "ids"
"""The argument of a field that returns one item for each."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound on one request. The defaults hold for a server that strangers can reach."""

    body_bytes: int = 2 * 1024 * 1024
    """Of a request's body or a WebSocket message: a batch of 1,000 events of 2 kB."""

    query_length: int = 100_000
    """Characters of a document. The lexer needs 0.3 µs for each, commas and blanks included."""

    tokens: int = 2_000
    """Of a document. The full introspection query has 400; parsing and validating 2,000 takes some tens of ms."""

    operations: int = 20
    """In one document. Only one of them runs; clients that send all of theirs at once have about that many."""

    depth: int = 20
    """Levels of fields. The introspection query of GraphiQL is 15 levels deep."""

    aliases: int = 50
    """Fields under another name than their own, in one operation with its fragments."""

    repeats: int = 50
    """Of one response name in one place, all fields that merge there counted: validation compares them pairwise."""

    fields: int = 1_000
    """In one operation, every fragment counted as often as it is spread; in all definitions ten times as many."""

    items: int = 20_000
    """That the lists of one operation may return, a list within a list as often as the outer one has items. Two levels
    of full pages have 10,100 and take a second; three have a million."""

    directives_per_node: int = 5
    """On one field, fragment or operation."""

    directives: int = 50
    """In one document."""

    validation_errors: int = 5
    """Echoed to the client. Each may quote a literal as long as the document, so they cost more than they tell."""

    execution_time: timedelta = timedelta(seconds=15)
    """Of a query or mutation. The slowest statement allowed in the database takes as long."""

    subscribe_time: timedelta = timedelta(seconds=15)
    """Until a subscription's source is there."""


class LimitExceededError(RequestError):
    """A document that is too much of something. The message names the limit."""

    def __init__(self, message: str, code: str = COST_EXCEEDED) -> None:
        super().__init__(message, code)


@dataclass(slots=True)
class _Sums:
    """What one selection set amounts to. Fragment spreads are included with everything they bring."""

    fields: int = 0
    depth: int = 0
    aliases: int = 0
    items: int = 0
    items_per_edge: int = 0
    """Of `edges` whose connection, and so whose number, is further out."""


def check_document(document: DocumentNode, limits: Limits) -> None:
    """Raise `LimitExceededError` if the document passes a limit. Linear in the document's tokens."""
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    definitions = [node for node in document.definitions if isinstance(node, FragmentDefinitionNode)]
    fragments = {node.name.value: node for node in definitions}
    if len(fragments) < len(definitions):
        raise LimitExceededError("Each fragment of a document must have a name of its own.", VALIDATION_FAILED)
    if len(operations) > limits.operations:
        raise LimitExceededError(f"A document may hold at most {limits.operations} operations.")
    _check_directives(document, limits)
    order = _innermost_first(fragments)
    _check_sums(operations, [fragments[name] for name in order], limits)
    for definition in (*operations, *fragments.values()):
        _check_repeats(definition.selection_set, fragments, limits)


def check_literals(document: DocumentNode) -> None:
    """Raise `LimitExceededError` for what `json_bounds` refuses in variables: NUL in a string, numbers over 64 bits."""
    token = document.loc.start_token if document.loc else None
    while token:
        value = token.value or ""
        if token.kind in (TokenKind.STRING, TokenKind.BLOCK_STRING) and "\0" in value:
            raise LimitExceededError("Strings must not contain NUL (U+0000).", BAD_USER_INPUT)
        if token.kind in (TokenKind.INT, TokenKind.FLOAT) and not fits_in_64_bits(value.encode()):
            raise LimitExceededError(NUMBER_TOO_LARGE, BAD_USER_INPUT)
        token = token.next


def _check_sums(
    operations: Sequence[OperationDefinitionNode], fragments: Sequence[FragmentDefinitionNode], limits: Limits
) -> None:
    """What each definition amounts to. Fragments come before those that spread them."""
    pass_ = _Pass(limits)
    total = sum(pass_.remembered(fragment).fields for fragment in fragments)
    total += sum(pass_.sums_of(operation.selection_set).fields for operation in operations)
    if total > DEFINITIONS_FACTOR * limits.fields:
        raise LimitExceededError(
            f"All definitions together may select at most {DEFINITIONS_FACTOR * limits.fields} fields."
        )


def _check_repeats(
    selection_set: SelectionSetNode, fragments: Mapping[str, FragmentDefinitionNode], limits: Limits
) -> None:
    """How many fields merge into one, place by place. Costs what the fields' number is, which is checked already."""
    places = [[selection_set]]
    while places:
        merged: dict[str, list[FieldNode]] = {}
        for node in _fields_in(places.pop(), fragments):
            merged.setdefault((node.alias or node.name).value, []).append(node)
        for nodes in merged.values():
            if len(nodes) > limits.repeats:
                raise LimitExceededError(f"A field may be repeated at most {limits.repeats} times in one place.")
            below = [node.selection_set for node in nodes if node.selection_set]
            if below:
                places.append(below)


def _fields_in(
    selection_sets: list[SelectionSetNode], fragments: Mapping[str, FragmentDefinitionNode]
) -> Iterator[FieldNode]:
    """The fields that are selected in one place, each fragment entered once."""
    stack, entered = list(selection_sets), set[str]()
    while stack:
        for selection in stack.pop().selections:
            if isinstance(selection, FieldNode):
                yield selection
            elif isinstance(selection, InlineFragmentNode):
                stack.append(selection.selection_set)
            elif isinstance(selection, FragmentSpreadNode) and selection.name.value not in entered:
                entered.add(selection.name.value)
                if fragment := fragments.get(selection.name.value):
                    stack.append(fragment.selection_set)


class _Pass:
    """One walk over a document. Fragments must be walked before those that spread them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._of_fragment: dict[str, _Sums] = {}

    def remembered(self, fragment: FragmentDefinitionNode) -> _Sums:
        sums = self._of_fragment[fragment.name.value] = self.sums_of(fragment.selection_set)
        return sums

    def sums_of(self, selection_set: SelectionSetNode) -> _Sums:
        sums = _Sums()
        self._add(selection_set, sums)
        self._check(sums)
        return sums

    def _add(self, selection_set: SelectionSetNode, sums: _Sums) -> None:
        for selection in selection_set.selections:
            if isinstance(selection, FieldNode):
                self._add_field(selection, sums)
            elif isinstance(selection, InlineFragmentNode):
                self._add(selection.selection_set, sums)
            elif isinstance(selection, FragmentSpreadNode):
                self._add_spread(self._of_fragment.get(selection.name.value), sums)

    def _add_field(self, node: FieldNode, sums: _Sums) -> None:
        sums.fields += 1
        if node.alias and node.alias.value != node.name.value:
            sums.aliases += 1
        depth = 1
        if node.selection_set:
            below = self.sums_of(node.selection_set)
            sums.fields += below.fields
            sums.aliases += below.aliases
            depth += below.depth
            self._add_items(node, below, sums)
        sums.depth = max(sums.depth, depth)

    @staticmethod
    def _add_items(node: FieldNode, below: _Sums, sums: _Sums) -> None:
        if node.name.value == EDGES:
            sums.items_per_edge += 1 + below.items
            return
        identifiers = _identifiers(node)
        items = below.items + _page_size(node) * below.items_per_edge
        sums.items += items if identifiers is None else identifiers * (1 + items)

    @staticmethod
    def _add_spread(fragment: _Sums | None, sums: _Sums) -> None:
        if fragment is None:
            return
        sums.fields += fragment.fields
        sums.aliases += fragment.aliases
        sums.depth = max(sums.depth, fragment.depth)
        sums.items += fragment.items
        sums.items_per_edge += fragment.items_per_edge

    def _check(self, sums: _Sums) -> None:
        limits = self._limits
        if sums.depth > limits.depth:
            raise LimitExceededError(f"Fields may nest at most {limits.depth} levels deep.", DEPTH_EXCEEDED)
        if sums.fields > limits.fields:
            raise LimitExceededError(
                f"An operation may select at most {limits.fields} fields, those of fragments included."
            )
        if sums.aliases > limits.aliases:
            raise LimitExceededError(f"An operation may use at most {limits.aliases} aliases.")
        if sums.items > limits.items:
            raise LimitExceededError(
                f"The lists of an operation may return at most {limits.items:,} items, inner ones multiplied by outer "
                f"ones, and these {sums.items:,}. A page size in a variable counts as {LONGEST_PAGE}."
            )


def _page_size(node: FieldNode) -> int:
    """How many items a connection returns at most."""
    given = [argument.value for argument in node.arguments or () if argument.name.value in SIZES]
    sizes = [_size(value) for value in given if not isinstance(value, NullValueNode)]
    return max(sizes, default=USUAL_PAGE)


def _size(value: ValueNode) -> int:
    if isinstance(value, IntValueNode) and len(value.value) <= len(str(LONGEST_PAGE)):
        return min(max(int(value.value), 0), LONGEST_PAGE)
    return LONGEST_PAGE


def _identifiers(node: FieldNode) -> int | None:
    """How many things a field is asked for by their ids, None if it is not."""
    for argument in node.arguments or ():
        if argument.name.value == IDENTIFIERS:
            return len(argument.value.values) if isinstance(argument.value, ListValueNode) else LONGEST_PAGE
    return None


def _check_directives(document: DocumentNode, limits: Limits) -> None:
    total = 0
    for directives in _directive_lists(document):
        total += len(directives)
        if len(directives) > limits.directives_per_node:
            raise LimitExceededError(f"At most {limits.directives_per_node} directives may stand in one place.")
        if total > limits.directives:
            raise LimitExceededError(f"A document may use at most {limits.directives} directives.")


def _directive_lists(document: DocumentNode) -> Iterator[tuple[DirectiveNode, ...]]:
    stack: list[SelectionSetNode] = []
    for definition in document.definitions:
        if isinstance(definition, OperationDefinitionNode | FragmentDefinitionNode):
            yield tuple(definition.directives or ())
            for variable in definition.variable_definitions or ():
                yield tuple(variable.directives or ())
            stack.append(definition.selection_set)
    while stack:
        for selection in stack.pop().selections:
            yield tuple(selection.directives or ())
            if isinstance(selection, FieldNode | InlineFragmentNode) and selection.selection_set:
                stack.append(selection.selection_set)


def _innermost_first(fragments: Mapping[str, FragmentDefinitionNode]) -> list[str]:
    """The fragments in an order in which each comes after those that it spreads. Raises when they form a cycle."""
    spreads = {name: _spreads(node.selection_set) & fragments.keys() for name, node in fragments.items()}
    spread_by: dict[str, list[str]] = {name: [] for name in fragments}
    for name, inner in spreads.items():
        for one in inner:
            spread_by[one].append(name)
    waiting = {name: len(inner) for name, inner in spreads.items()}
    order = [name for name, count in waiting.items() if count == 0]
    for name in order:
        for outer in spread_by[name]:
            waiting[outer] -= 1
            if waiting[outer] == 0:
                order.append(outer)
    if len(order) < len(fragments):
        raise LimitExceededError("Fragments must not spread themselves, directly or through others.", VALIDATION_FAILED)
    return order


def _spreads(selection_set: SelectionSetNode) -> set[str]:
    names: set[str] = set()
    stack = [selection_set]
    while stack:
        for selection in stack.pop().selections:
            if isinstance(selection, FragmentSpreadNode):
                names.add(selection.name.value)
            elif isinstance(selection, FieldNode | InlineFragmentNode) and selection.selection_set:
                stack.append(selection.selection_set)
    return names
