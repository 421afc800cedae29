"""What operations cost: tables of documents, and an oracle that walks random ones without compiling anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from graphql import (
    FragmentDefinitionNode,
    GraphQLObjectType,
    OperationDefinitionNode,
    build_schema,
    get_named_type,
    get_variable_values,
    is_interface_type,
    is_leaf_type,
    is_list_type,
    parse,
    validate,
)
from graphql.type import get_nullable_type
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.events import EventDraft
from resolvers.tracking import EventBatch
from schema import build_schema as build_our_schema
from schema import costs
from transport.execution.cost import (
    EDGES,
    Cost,
    CostExceededError,
    compile_cost,
)
from transport.execution.weights import PerItem, Weights

SDL = """
type Query {
  a: A
  people(first: Int, last: Int): PersonConnection
  things(ids: [ID!]!): [Thing]
  boards: [Board!]
  question: Report
}
type A { b: A c: String }
type PersonConnection { edges: [Edge!]! totalCount: Int pageInfo: A }
type Edge { cursor: String node: Person }
type Person implements Thing {
  id: ID other: Person events(first: Int): PersonConnection people(first: Int): PersonConnection
}
interface Thing { id: ID }
type Board implements Thing { id: ID insights: [Insight!] }
type Insight { name: String x: Report y: Report }
type Report { rows: [A!] }
input Batch { events: [Int!]! }
type Mutation { save: A send(input: Batch!): A }
type Subscription { stream: Person }
"""

WEIGHTS = Weights(
    fields={
        "Query.question": 100,
        "Insight.x": 30,
        "Insight.y": 50,
        "PersonConnection.totalCount": 10,
        "Mutation.send": PerItem("input", "events", 10, lambda batch: len(batch["events"])),
    },
    sizes={"Query.boards": 5, "Board.insights": 4},
    one_of=frozenset({"Insight"}),
)

PEOPLE = "people(first: 100) { edges { node { %s } } }"


def cost_of(document: str, variables: Mapping[str, Any] | None = None) -> tuple[Cost, dict[str, Any]]:
    """The compiled cost of a valid document's only operation, and the coerced variables."""
    schema = build_schema(SDL)
    parsed = parse(document)
    assert validate(schema, parsed) == []
    operation = next(node for node in parsed.definitions if isinstance(node, OperationDefinitionNode))
    fragments = {node.name.value: node for node in parsed.definitions if isinstance(node, FragmentDefinitionNode)}
    values = get_variable_values(schema, operation.variable_definitions or (), dict(variables or {}))
    assert not isinstance(values, list), values
    return compile_cost(schema, operation, fragments, WEIGHTS), values.coerced


def points(document: str, **variables: Any) -> int:
    cost, values = cost_of(document, variables)
    return cost.of(values)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("{ a { b { c } } }", 1),
        ("{ a { c } x: a { c } }", 2),
        # fields that merge are one
        ("{ a { c } a { b { c } } ...F } fragment F on Query { a { c } }", 1),
        ("{ __typename }", 1),
        ("{ __schema { types { name fields { name } } } }", 1),
        ("{ question { rows { c } } }", 100),
        ("{ people { edges { cursor } } }", 21),
        ("{ people { totalCount } }", 11),
        ("{ people(first: null) { edges { cursor } } }", 21),
        ("{ people(first: 7) { edges { cursor } } }", 8),
        ("{ people(last: 7) { edges { cursor } } }", 8),
        ("{ people(first: 3, last: 7) { edges { cursor } } }", 8),
        ("{ people(first: 0) { edges { cursor } } }", 1),
        ("{ people(first: -7) { edges { cursor } } }", 1),
        # a list returns no more than that, whatever is asked for, and may be asked for it
        ("{ people(first: 101) { edges { cursor } } }", 101),
        ("{ people(first: 2147483647) { edges { cursor } } }", 101),
        # what is not of the list is there once
        ("{ people(first: 7) { pageInfo { c } } }", 1),
        ("{ people(first: 7) { edges { cursor } x: edges { node { id } } } }", 15),
        ("{ people(first: 7) { edges { cursor } edges { node { id } } } }", 8),
        # each list within one
        ("{" + PEOPLE % (PEOPLE % "id") + "}", 1 + 100 + 100 * 100),
        ("{" + PEOPLE % (PEOPLE % (PEOPLE % "id")) + "}", 1 + 100 + 100**2 + 100**3),
        (
            "{"
            + PEOPLE % "events(first: 2) { edges { node { other { id } } } } people(first: 3) { edges { cursor } }"
            + "}",
            1 + 100 * (1 + 2 + 3),
        ),
        # whatever the fragments
        (
            "{ people(first: 7) { ...C } } fragment C on PersonConnection { edges { ...E } } "
            "fragment E on Edge { cursor }",
            8,
        ),
        (
            "{ people(first: 7) { ... { ...C } } } fragment C on PersonConnection { edges { node { ...P } } } "
            "fragment P on Person { events(first: 3) { edges { cursor } } }",
            1 + 7 * (1 + 3),
        ),
        # things by their ids; what is asked of different types is added up
        ('{ things(ids: ["a", "b"]) { id } }', 3),
        ('{ things(ids: "a") { id } }', 2),
        (
            '{ things(ids: ["a", "b"]) { ... on Person { events(first: 7) { edges { cursor } } } '
            "... on Board { insights { name } } } }",
            1 + 2 * (1 + 7 + 4),
        ),
        # lists without pages, and questions of which one is answered
        ("{ boards { insights { name } } }", 1 + 5 * (1 + 4)),
        ("{ boards { insights { x { rows { c } } y { rows { c } } } } }", 1 + 5 * (1 + 4 * (1 + 50))),
        # what is left out in any case
        ("{ a { c } people @skip(if: true) { edges { cursor } } }", 1),
        ("{ a { c } ... @include(if: false) { people { edges { cursor } } } }", 1),
        ("{ people(first: 7) @include(if: true) { edges { cursor } } }", 8),
        ("mutation { save { c } }", 10),
        ("mutation { x: save { c } y: save { c } }", 20),
        ("mutation { send(input: { events: [1, 2, 3] }) { c } }", 1),
        ("mutation { send(input: { events: [%s] }) { c } }" % ("1," * 11), 2),
        ("mutation { send(input: { events: 1 }) { c } }", 1),
        ("subscription { stream { id } }", 10),
        ("subscription { stream { events(first: 7) { edges { cursor } } } }", 17),
    ],
)
def test_what_a_document_costs(document: str, expected: int) -> None:
    assert points(document) == expected


SIZED = "query ($n: Int) { people(first: $n) { edges { cursor } } }"
CHOSEN = "query ($deep: Boolean!) { people(first: 7) { edges { node { events @include(if: $deep) { %s } } } } }"


@pytest.mark.parametrize(
    ("document", "variables", "expected"),
    [
        (SIZED, {}, 21),
        (SIZED, {"n": None}, 21),
        (SIZED, {"n": 7}, 8),
        (SIZED, {"n": 0}, 1),
        (SIZED, {"n": -5}, 1),
        (SIZED, {"n": 5000}, 101),
        ("query ($n: Int = 5) { people(first: $n) { edges { cursor } } }", {}, 6),
        ("query ($n: Int, $m: Int) { people(first: $n, last: $m) { edges { cursor } } }", {"n": 5, "m": 9}, 10),
        ("query ($n: Int) { people(first: $n, last: 8) { edges { cursor } } }", {"n": 5}, 9),
        ("query ($ids: [ID!]!) { things(ids: $ids) { id } }", {"ids": ["a", "b", "c"]}, 4),
        ("query ($ids: [ID!]!) { things(ids: $ids) { id } }", {"ids": []}, 1),
        (CHOSEN % "edges { cursor }", {"deep": False}, 8),
        (CHOSEN % "edges { cursor }", {"deep": True}, 1 + 7 * (1 + 20)),
        (
            "query ($no: Boolean!) { a { c } ... @skip(if: $no) { people(first: 7) { edges { cursor } } } }",
            {"no": True},
            1,
        ),
        ("mutation ($b: Batch!) { send(input: $b) { c } }", {"b": {"events": [1] * 1000}}, 100),
        ("mutation ($b: Batch!) { send(input: $b) { c } }", {"b": {"events": []}}, 1),
        ("mutation ($e: [Int!]!) { send(input: { events: $e }) { c } }", {"e": [1] * 21}, 3),
    ],
)
def test_a_variable_costs_what_it_holds(document: str, variables: dict[str, Any], expected: int) -> None:
    assert points(document, **variables) == expected


def test_what_costs_too_much_is_told_how_the_sum_comes_about() -> None:
    inner = PEOPLE % "events(first: 7) { edges { cursor } } other { id }"
    document = "{ a { c } question { rows { c } } " + PEOPLE % inner + "}"
    cost, values = cost_of(document)

    with pytest.raises(CostExceededError) as refusal:
        cost.check(values, 20_000)

    assert cost.check(values, 80_202) == 80_202
    assert (refusal.value.code, refusal.value.requested, refusal.value.maximum) == ("COST_EXCEEDED", 80_202, 20_000)
    assert refusal.value.message == (
        "An operation may cost at most 20,000 points, and this one costs 80,202: "
        "people 1 + 100 × (1 + people 100 × (1 + events 7 × 1)) + question 100 + a 1. "
        "Ask for smaller pages, or for less in each."
    )


def test_an_explanation_is_short_whatever_the_document() -> None:
    wide = " ".join(f"{'x' * 500}{number}: people {{ edges {{ cursor }} }}" for number in range(40))
    deep = "id"
    for _ in range(8):
        deep = PEOPLE % deep
    cost, values = cost_of("{" + wide + deep + "}")

    explained = cost.explanation(values)

    assert len(explained) < 400
    assert "for the rest" in explained


@pytest.mark.parametrize(
    ("document", "data", "expected"),
    [
        ("{ a { c } }", {"a": {"c": "x"}}, 1),
        ("{ people { edges { cursor } } }", {"people": {"edges": [{"cursor": "x"}] * 3}}, 4),
        ("{ p: people { edges { cursor } } }", {"p": None}, 1),
        (
            "{" + PEOPLE % "events(first: 9) { edges { cursor } }" + "}",
            {
                "people": {
                    "edges": [
                        {"node": {"events": {"edges": [{"cursor": "x"}] * 2}}},
                        {"node": {"events": {"edges": []}}},
                        {"node": None},
                    ]
                }
            },
            1 + 3 + 2,
        ),
        (
            "{ boards { insights { x { rows { c } } y { rows { c } } } } }",
            {"boards": [{"insights": [{"x": {"rows": []}, "y": None}, {"x": None, "y": {"rows": []}}]}]},
            1 + 1 + 2 + 30 + 50,
        ),
        (
            '{ things(ids: ["a", "b", "c"]) { ... on Board { insights { name } } id } }',
            {"things": [{"id": "a"}, None, {"insights": [{"name": "x"}], "id": "c"}]},
            1 + 3 + 1,
        ),
        # more came than a list of no page size was taken to hold: what was asked for is the most
        ("{ boards { id } }", {"boards": [{"id": "a"}] * 9}, 6),
    ],
)
def test_lists_that_return_less_cost_less(document: str, data: dict[str, Any], expected: int) -> None:
    cost, values = cost_of(document)

    assert cost.actual(data, values) == expected


def test_an_item_of_a_stream_costs_what_is_selected_in_it() -> None:
    cost, values = cost_of("subscription { stream { id events(first: 7) { edges { cursor } } } }")

    assert cost.inside(values) == 7


@st.composite
def selections(draw: st.DrawFn, levels: int = 3) -> str:
    """The inside of a Person."""
    chosen = draw(st.lists(st.sampled_from(["id", "other", "events", "people"]), min_size=1, max_size=3))
    made = []
    for number, name in enumerate(chosen):
        if name == "id" or levels == 0:
            made.append("id")
            continue
        inner = draw(selections(levels - 1))
        condition = draw(st.sampled_from(["", " @include(if: $yes)", " @skip(if: $yes)", " @include(if: $no)"]))
        if name == "other":
            made.append(f"f{number}: other{condition} {{ {inner} }}")
        else:
            size = draw(st.sampled_from(["", "(first: 3)", "(first: $n)"]))
            wrapped = draw(st.sampled_from(["%s", "... { %s }", "... on PersonConnection { %s }"]))
            below = wrapped % f"edges {{ node {{ {inner} }} }}"
            made.append(f"f{number}: {name}{size}{condition} {{ {below} }}")
    return " ".join(made)


def walked(schema: Any, of_type: GraphQLObjectType, selection_set: Any, values: Mapping[str, Any], page: int) -> int:
    """The oracle: what is selected, one field after the other, with the values at hand."""
    total = 0
    for node in selection_set.selections:
        conditions = {each.name.value: values[each.arguments[0].value.name.value] for each in node.directives or ()}
        if conditions.get("include") is False or conditions.get("skip") is True:
            continue
        if node.kind == "inline_fragment":
            total += walked(schema, of_type, node.selection_set, values, page)
            continue
        if node.selection_set is None:
            continue
        inner_type = get_named_type(of_type.fields[node.name.value].type)
        size = next((a.value for a in node.arguments or ()), None)
        given = 20 if size is None else values["n"] if size.kind == "variable" else int(size.value)
        inner = walked(schema, inner_type, node.selection_set, values, given)
        total += page * (1 + inner) if node.name.value == EDGES else inner
    return total


@settings(max_examples=60, deadline=None)
@given(selections(), st.integers(0, 100))
def test_the_compiled_sum_is_that_of_walking_the_document(inside: str, n: int) -> None:
    document = (
        "query ($n: Int, $yes: Boolean!, $no: Boolean!) { a @skip(if: $yes) { c } b: a @include(if: $no) { c } "
        "people(first: $n) { edges { node { " + inside + " } } } }"
    )
    values = {"n": n, "yes": True, "no": False}
    schema = build_schema(SDL)
    people = parse(document).definitions[0].selection_set.selections[2]  # type: ignore[attr-defined]
    connection = schema.type_map["PersonConnection"]
    assert isinstance(connection, GraphQLObjectType)

    assert points(document, **values) == 1 + walked(schema, connection, people.selection_set, values, n)


# The table of the product


def paid_fields() -> set[str]:
    return {*costs.WEIGHTS, costs.BATCH_FIELD}


def test_every_entry_of_the_table_is_a_field_of_the_schema() -> None:
    schema = build_our_schema()._schema
    known = {
        f"{name}.{field}"
        for name, each in schema.type_map.items()
        if isinstance(each, GraphQLObjectType)
        for field in each.fields
    }

    assert paid_fields() | set(costs.SIZES) <= known
    assert set(schema.type_map) >= costs.ONE_OF


def test_sizes_are_given_to_lists_of_objects_without_pages() -> None:
    schema = build_our_schema()._schema
    for place in costs.SIZES:
        type_name, _, field = place.partition(".")
        definition = schema.type_map[type_name].fields[field]  # type: ignore[attr-defined]
        assert is_list_type(get_nullable_type(definition.type)), place
        assert not is_leaf_type(get_named_type(definition.type)), place


def test_a_list_without_a_size_leads_to_nothing_that_costs() -> None:
    """Whoever adds one says how long it usually is, or that it comes with its object."""
    schema = build_our_schema()._schema
    dear: list[str] = []
    for name, each in schema.type_map.items():
        if not isinstance(each, GraphQLObjectType) or name.startswith("__"):
            continue
        for field, definition in each.fields.items():
            place = f"{name}.{field}"
            named = get_named_type(definition.type)
            if not is_list_type(get_nullable_type(definition.type)) or is_leaf_type(named):
                continue
            if place in costs.SIZES or field == EDGES or "ids" in definition.args:
                continue
            if leads_to_cost(named, set()):
                dear.append(place)

    assert dear == []


def leads_to_cost(of_type: Any, seen: set[str]) -> bool:
    if of_type.name in seen or is_leaf_type(of_type):
        return False
    seen.add(of_type.name)
    if is_interface_type(of_type) and of_type.name == "Node":
        return True
    fields = getattr(of_type, "fields", {})
    return any(
        f"{of_type.name}.{name}" in paid_fields() | set(costs.SIZES)
        or name == EDGES
        or leads_to_cost(get_named_type(definition.type), seen)
        for name, definition in fields.items()
    )


def test_events_of_a_batch_are_counted_whichever_way_it_was_coerced() -> None:
    drafts: tuple[EventDraft, ...] = (None,) * 7  # type: ignore[assignment]

    assert costs.count_events(EventBatch(drafts)) == 7
    assert costs.count_events({"events": [{}, {}]}) == 2
