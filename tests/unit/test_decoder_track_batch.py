"""The compiled decoder of TrackBatchInput against GraphQL's own coercion: never another value, never more than it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from graphql import GraphQLInputObjectType, VariableNode, parse
from graphql.execution.values import get_variable_values
from graphql.language import OperationDefinitionNode
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import structs
from strawberry.types.arguments import convert_argument

from engine.events import EventDraft
from resolvers.tracking import Claim, EventBatch
from schema import build_schema
from schema.decoders import DECODERS, decode_track_batch
from schema.scalars import SCALARS
from schema.track import TrackBatchInput

STRAWBERRY = build_schema()
SCHEMA = STRAWBERRY._schema
DOCUMENT = parse("mutation ($input: TrackBatchInput!) { trackBatch(input: $input) { accepted } }")


@dataclass(frozen=True)
class Refused:
    """What the ordinary path says instead of giving a value."""

    messages: tuple[str, ...]


def ordinary(raw: bytes) -> EventBatch | Refused:
    """The path without a decoder: JSON, coercion by graphql-core, conversion by Strawberry."""
    [operation] = DOCUMENT.definitions
    assert isinstance(operation, OperationDefinitionNode)
    values = get_variable_values(SCHEMA, operation.variable_definitions, {"input": orjson.loads(raw)})
    if isinstance(values, list):
        return Refused(tuple(error.message for error in values))
    return convert(values.coerced["input"])


def convert(value: object) -> Any:
    return convert_argument(value, TrackBatchInput, SCALARS, STRAWBERRY.config)


def decoded(raw: bytes) -> EventBatch | None:
    try:
        return decode_track_batch(raw)
    except ValueError:
        return None


def assert_agreement(value: object) -> None:
    raw = orjson.dumps(value)
    fast = decoded(raw)
    if fast is not None:
        assert values_of(ordinary(raw)) == values_of(fast)


def values_of(batch: EventBatch | Refused) -> object:
    """A batch with its JSON texts read: the decoder keeps the client's blanks, escapes and spelling of numbers."""
    if isinstance(batch, Refused):
        return batch
    drafts = [structs.asdict(draft) for draft in batch.drafts]
    texts = ("properties", "context", "traits")
    read = [{**draft, **{name: draft[name] and orjson.loads(draft[name]) for name in texts}} for draft in drafts]
    return read, batch.claims


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["\0", "\\u0000", "\ud7ff", "😀"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
TEXTS = st.text(max_size=6)
INSTANTS = st.sampled_from(
    [
        "2026-05-01T12:00:00Z",
        "2026-05-01T12:00:00.123456789+02:00",
        "2026-05-01 12:00:00z",
        "2026-05-01T12:00Z",
        "2026-05-01T12:00:00",
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59-00:01",
        "",
    ]
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "id": TEXTS,
    "orgId": TEXTS | st.integers(0, 5),
    "projectId": TEXTS | st.integers(0, 5),
    "module": TEXTS,
    "timestamp": INSTANTS | st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
    "userId": TEXTS,
    "anonymousId": TEXTS,
    "signature": TEXTS,
    "properties": JSON,
    "context": JSON,
    "traits": JSON,
}
"""Every field of EventInput but the one that must be there."""
LIKELY_EVENTS = st.fixed_dictionaries(
    {"eventType": TEXTS}, optional={name: st.none() | each for name, each in FIELDS.items()}
)


def test_the_strategy_covers_every_field() -> None:
    definition = SCHEMA.type_map["EventInput"]
    assert isinstance(definition, GraphQLInputObjectType)
    assert set(definition.fields) == {"eventType", *FIELDS}


@given(st.lists(LIKELY_EVENTS, max_size=4))
@settings(deadline=None, max_examples=300)
def test_a_likely_batch_is_the_same_on_both_paths(events: list[Any]) -> None:
    assert_agreement({"events": events})


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["eventType", *FIELDS, "other"]), JSON | INSTANTS, max_size=6) | JSON,
        max_size=3,
    )
)
@settings(deadline=None, max_examples=300)
def test_events_of_any_shape_are_the_same_or_left_to_the_ordinary_path(events: list[Any]) -> None:
    assert_agreement({"events": events})


@given(JSON | st.dictionaries(st.sampled_from(["events", "event"]), JSON))
@example({"events": {"eventType": "a.b"}})  # GraphQL takes one item for a list of one
@settings(deadline=None)
def test_any_json_at_all_is_the_same_or_left_to_the_ordinary_path(value: object) -> None:
    assert_agreement(value)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_bytes_that_are_no_json_are_refused_with_a_value_error(raw: bytes) -> None:
    try:
        decode_track_batch(raw)
    except ValueError:
        return
    orjson.loads(raw)


def test_an_ordinary_batch_takes_the_fast_path() -> None:
    """Or the property above would hold for a decoder that refuses everything."""
    raw = orjson.dumps(
        {
            "events": [
                {
                    "id": "e-1",
                    "orgId": "o",
                    "projectId": "p",
                    "module": "shop",
                    "eventType": "order.placed",
                    "timestamp": "2026-05-01T14:00:00+02:00",
                    "userId": "u",
                    "anonymousId": "a",
                    "signature": "s",
                    "properties": {"amount": 12.5, "items": [{"n": 1}]},
                    "context": {"ip": "10.0.0.1"},
                    "traits": {"plan": None},
                },
                {"eventType": "page.viewed", "properties": None, "module": None},
            ]
        }
    )
    expected = EventBatch(
        (
            EventDraft(
                event_type="order.placed",
                module="shop",
                key="e-1",
                timestamp=datetime(2026, 5, 1, 12, tzinfo=UTC),
                user_id="u",
                anonymous_id="a",
                properties=b'{"amount":12.5,"items":[{"n":1}]}',
                context=b'{"ip":"10.0.0.1"}',
                traits=b'{"plan":null}',
            ),
            EventDraft(event_type="page.viewed"),
        ),
        (Claim(0, "o", "p", "s"),),
    )
    assert decode_track_batch(raw) == expected == ordinary(raw)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"eventTyp": "a.b"}, "eventType"),
        ({"eventType": 5}, "String cannot represent"),
        ({"eventType": "a.b", "timestamp": "yesterday"}, "DateTime must be an ISO 8601 instant"),
        ({"eventType": "a.b", "timestamp": "2026-05-01T12:00:00"}, "DateTime must have an offset"),
        ({"eventType": "a.b", "timestamp": "0001-01-01T00:00:00+05:00"}, "years 1 to 9999"),
        ({"eventType": "a.b", "properties": [[[[[[[]]]]]]] * 1, "colour": 1}, "colour"),
    ],
)
def test_what_the_decoder_refuses_the_ordinary_path_words(event: dict[str, Any], message: str) -> None:
    raw = orjson.dumps({"events": [event]})
    assert decoded(raw) is None
    refused = ordinary(raw)
    assert isinstance(refused, Refused)
    assert any(message in text for text in refused.messages), refused


def deep(levels: int) -> bytes:
    return b'{"events":[{"eventType":"a.b","properties":' + b'{"a":' * levels + b"1" + b"}" * levels + b"}]}"


def test_depth_is_bounded_alike_on_both_paths() -> None:
    assert decode_track_batch(deep(64)) == ordinary(deep(64))
    assert decoded(deep(65)) is None
    assert isinstance(ordinary(deep(65)), Refused)
    for levels in (1_000, 100_000):
        assert decoded(deep(levels)) is None


@pytest.mark.parametrize("number", [b"18446744073709551616", b"-9223372036854775809", b"1e400", b"9" * 5000])
def test_numbers_beyond_64_bits_are_left_to_the_ordinary_path(number: bytes) -> None:
    assert decoded(b'{"events":[{"eventType":"a.b","properties":{"n":' + number + b"}}]}") is None


def test_a_value_that_a_decoder_made_is_taken_as_it_is() -> None:
    batch = EventBatch((EventDraft(event_type="a.b"),))
    assert convert(batch) is batch


def test_decoders_are_named_for_input_types_of_the_schema() -> None:
    for name in DECODERS:
        assert isinstance(SCHEMA.type_map[name], GraphQLInputObjectType)


def test_variables_are_what_a_batch_comes_in() -> None:
    """A batch written into the document as a literal goes the ordinary way, variables inside it included."""
    document = parse("mutation ($e: EventInput!) { trackBatch(input: {events: [$e]}) { accepted } }")
    [operation] = document.definitions
    assert isinstance(operation, OperationDefinitionNode)
    values = get_variable_values(SCHEMA, operation.variable_definitions, {"e": {"eventType": "a.b"}})
    assert not isinstance(values, list)
    assert isinstance(operation.variable_definitions[0].variable, VariableNode)
    assert convert({"events": [values.coerced["e"]]}) == EventBatch((EventDraft(event_type="a.b"),))
