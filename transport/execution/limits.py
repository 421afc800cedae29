"""Bounds on GraphQL documents, checked in one pass over the tree before validation may look at it.

Validation is quadratic in places and expands fragments; so everything that could make it slow is refused first: the
number of tokens while parsing, then operations, fragment cycles, depth, aliases, repeats of a field, directives, and
the fields that remain when every fragment spread is replaced by its fragment. Each definition is walked once and each
fragment's sums are remembered, so 921 bytes of fragments that double fourteen times cost fourteen additions.

`check_document` raises `LimitExceededError`, whose message says what the limit is. What an operation would read is
limited by its cost (`cost.py`), once its variables are known. Time and bytes are limited elsewhere. All of them by the
numbers given here.
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
    OperationDefinitionNode,
    SelectionSetNode,
    TokenKind,
)

from transport.errors import BAD_USER_INPUT, COST_EXCEEDED, DEPTH_EXCEEDED, VALIDATION_FAILED, RequestError
from transport.execution.json_bounds import NUMBER_TOO_LARGE, fits_in_64_bits

DEFINITIONS_FACTOR = 10
"""Fields of all definitions against those of one operation: compiled documents repeat fragments within fragments."""


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

    cost: int = 20_000
    """Points of one operation (`cost.py`). Two levels of full pages cost 10,101 and take a second; three a million."""

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

    waiting: int = 100
    """Requests that wait for a turn (`turns.py`). They may hold a body of `body_bytes` each."""

    streams_per_holder: int = 10_000
    """Open subscriptions of one key or session in this process, over whatever they come. About 40 KB each."""


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
        sums.depth = max(sums.depth, depth)

    @staticmethod
    def _add_spread(fragment: _Sums | None, sums: _Sums) -> None:
        if fragment is None:
            return
        sums.fields += fragment.fields
        sums.aliases += fragment.aliases
        sums.depth = max(sums.depth, fragment.depth)

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
