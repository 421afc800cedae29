"""The service that every transport uses: preparing, running, masking, streaming."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from datetime import timedelta
from typing import Any

import msgspec
import orjson
import pytest
from graphql import ExecutionResult, GraphQLError, GraphQLSchema, OperationType, build_schema

from transport.application import InputDecoder, LiveSource, Membership, PublicError, Rendering, Sink
from transport.errors import RequestError
from transport.execution.limits import Limits
from transport.execution.service import GraphQLRequest, GraphQLService, Prepared, read_request
from transport.execution.weights import Weights

SDL = """
type Query {
  hello(name: String = "you"): String
  items: [Item!]!
  context: Int!
  crash: String
  described: String
  missing: Int!
  slow: String
}
type Item { number: Int! twice(add: Int = 0): Int! fails: Int! slow: String }
input Point { x: Int! y: Int = 7 }
type Mutation { first: Int! second: Int! place(point: Point!, label: String, points: [Point!]): String }
type Subscription { live(after: Int): Item plain(to: Int!): Item breaks: Item refused: Item }
"""


class DescribedError(Exception):
    pass


class Source:
    """A live source that hands over what it is given, as the hub does."""

    audience: Hashable = "everybody"

    async def join(self, rendering: Rendering, sink: Sink, *, after: str | None = None) -> Membership:
        raise NotImplementedError

    def __aiter__(self) -> AsyncIterator[Any]:
        raise TypeError


class CountingSession:
    """Gives contexts that are numbered."""

    holder = None
    account = None

    def __init__(self, *, may_inspect: bool = False, trusted: Mapping[str, str] | None = None) -> None:
        """`trusted` are documents by hash; where they are given, no others may run."""
        self.contexts = 0
        self.may_inspect = may_inspect
        self._trusted = trusted

    async def trusted_document(self, digest: str) -> str | None:
        return (self._trusted or {}).get(digest)

    async def may_run(self, document: str) -> bool:
        return self._trusted is None or document in self._trusted.values()

    def context(self, cost: int = 0) -> int:
        self.contexts += 1
        return self.contexts

    def on_revoked(self, callback: Callable[[str], None]) -> Callable[[], None]:
        return lambda: None


SESSION = CountingSession()


class SmallApplication:
    def __init__(self, decoders: Mapping[str, InputDecoder] | None = None) -> None:
        self.schema = small_schema()
        self.decoders = decoders or {}
        self.weights = Weights()

    async def open_session(
        self, headers: Mapping[str, str], payload: Mapping[str, Any] | None, *, client: str | None
    ) -> CountingSession:
        return CountingSession()

    def describe_error(self, error: BaseException) -> PublicError | None:
        return PublicError(str(error), {"code": "NOT_FOUND"}) if isinstance(error, DescribedError) else None


def small_schema() -> GraphQLSchema:
    schema = build_schema(SDL)
    order: list[str] = []

    def crash(*_: object) -> str:
        raise RuntimeError("password is hunter2")

    def described(*_: object) -> str:
        raise DescribedError("There is no such thing.")

    async def slow(*_: object) -> str:
        await asyncio.sleep(30)
        return "never"

    async def place(
        _root: object, _info: object, point: object, label: str | None = None, points: object = None
    ) -> str:
        return repr((point, label, points))

    async def noted(_root: object, info: Any) -> int:
        await asyncio.sleep(0.001 if info.field_name == "first" else 0)
        order.append(info.field_name)
        return len(order)

    async def plain(_root: object, _info: object, to: int) -> AsyncIterator[dict[str, object]]:
        for number in range(to):
            yield {"plain": {"number": number}}

    async def breaks(*_: object) -> AsyncIterator[dict[str, object]]:
        yield {"breaks": {"number": 1}}
        raise RuntimeError("password is hunter2")

    resolvers: dict[str, dict[str, Any]] = {
        "Query": {
            "hello": lambda _root, _info, name: f"Hello, {name}!",
            "items": lambda *_: [{"number": number} for number in range(3)],
            "context": lambda _root, info: info.context,
            "crash": crash,
            "described": described,
            "missing": lambda *_: None,
            "slow": slow,
        },
        "Item": {"twice": lambda item, _info, add: item["number"] * 2 + add, "fails": crash, "slow": slow},
        "Mutation": {"first": noted, "second": noted, "place": place},
    }
    for type_name, fields in resolvers.items():
        for field_name, resolve in fields.items():
            schema.type_map[type_name].fields[field_name].resolve = resolve  # type: ignore[attr-defined]
    subscriptions = schema.subscription_type.fields  # type: ignore[union-attr]
    subscriptions["live"].subscribe = lambda *_, after=None: Source()
    subscriptions["plain"].subscribe = plain
    subscriptions["breaks"].subscribe = breaks
    subscriptions["refused"].subscribe = described
    return schema


def service(**options: Any) -> GraphQLService:
    return GraphQLService(SmallApplication(), **options)


async def prepared(to: GraphQLService, document: str, **members: object) -> Prepared:
    outcome = await to.prepare(read_request(orjson.dumps({"query": document, **members})), SESSION)
    assert isinstance(outcome, Prepared), outcome
    return outcome


async def refused(to: GraphQLService, document: str, **members: object) -> list[tuple[object, str]]:
    """Code and message of each error."""
    outcome = await to.prepare(read_request(orjson.dumps({"query": document, **members})), SESSION)
    assert isinstance(outcome, list)
    return [((error.extensions or {})["code"], error.message) for error in outcome]


async def answer(to: GraphQLService, document: str, **members: object) -> dict[str, Any]:
    result = await to.execute(await prepared(to, document, **members), CountingSession())
    parsed = orjson.loads(to.encode(result))
    assert isinstance(parsed, dict)
    return parsed


async def test_an_operation_is_chosen_as_the_specification_says() -> None:
    to = service()
    two = "query A { hello } mutation B { first }"

    assert (await prepared(to, "{ hello }")).operation_name is None
    assert (await prepared(to, "query A { hello }")).operation_name == "A"
    chosen = await prepared(to, two, operationName="B")
    assert (chosen.operation_name, chosen.kind) == ("B", OperationType.MUTATION)
    assert [code for code, _ in await refused(to, two)] == ["BAD_USER_INPUT"]
    assert [code for code, _ in await refused(to, two, operationName="C")] == ["BAD_USER_INPUT"]
    assert [code for code, _ in await refused(to, "{ hello }", operationName="C")] == ["BAD_USER_INPUT"]
    assert [code for code, _ in await refused(to, "fragment F on Query { hello }")] == ["GRAPHQL_VALIDATION_FAILED"]


async def test_mutations_run_one_after_the_other() -> None:
    assert await answer(service(), "mutation { first second }") == {"data": {"first": 1, "second": 2}}


async def test_a_document_is_checked_once_and_its_fields_collected_once_per_condition() -> None:
    to = service()
    document = "query($n: String, $all: Boolean!) { hello(name: $n) items @include(if: $all) { number twice(add: 1) } }"

    for name in ("a", "b"):
        some = await answer(to, document, variables={"n": name, "all": False})
        all_of_it = await answer(to, document, variables={"n": name, "all": True})
        assert some == {"data": {"hello": f"Hello, {name}!"}}
        assert all_of_it["data"]["items"] == [{"number": n, "twice": 2 * n + 1} for n in range(3)]
    first, second = await prepared(to, "{ hello }"), await prepared(to, "{ hello }")
    assert first.plan is second.plan


async def test_each_execution_has_a_context_and_errors_of_its_own() -> None:
    to, session = service(), CountingSession()
    plan = await prepared(to, "{ context crash }")

    results = [await to.execute(plan, session) for _ in range(3)]

    assert [result.data for result in results] == [{"context": n, "crash": None} for n in (1, 2, 3)]
    assert [len(result.errors or ()) for result in results] == [1, 1, 1]


async def test_errors_are_masked_unless_they_are_described(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        response = await answer(service(), "{ crash described }")

    masked, described = response["errors"]
    assert response["data"] == {"crash": None, "described": None}
    assert (masked["message"], masked["path"], masked["locations"]) == (
        "Internal error.",
        ["crash"],
        [{"line": 1, "column": 3}],
    )
    assert masked["extensions"]["code"] == "INTERNAL"
    assert (described["message"], described["extensions"]) == ("There is no such thing.", {"code": "NOT_FOUND"})
    [record] = caplog.records
    assert (record.message, record.error_id) == ("internal_error", masked["extensions"]["id"])  # type: ignore[attr-defined]
    assert "builtins.RuntimeError" in record.error_type  # type: ignore[attr-defined]
    assert "hunter2" not in str(record.__dict__)


async def test_null_where_there_must_be_a_value_is_our_fault_and_masked(caplog: pytest.LogCaptureFixture) -> None:
    response = await answer(service(), "{ missing }")

    assert response["data"] is None
    assert response["errors"][0]["extensions"]["code"] == "INTERNAL"


async def test_an_operation_ends_with_its_time() -> None:
    to = service(limits=Limits(execution_time=timedelta(milliseconds=20)))

    assert await answer(to, "{ hello slow }") == {
        "errors": [{"message": "The operation took longer than 0.02 seconds.", "extensions": {"code": "TIMEOUT"}}],
        "data": None,
    }


async def test_errors_of_the_request_have_the_code_of_their_stage() -> None:
    to = service()

    assert await refused(to, "{") == [("GRAPHQL_PARSE_FAILED", "Syntax Error: Expected Name, found <EOF>.")]
    assert await refused(to, "{ helo }") == [
        ("GRAPHQL_VALIDATION_FAILED", "Cannot query field 'helo' on type 'Query'.")
    ]
    assert await refused(to, "query($n: Int!) { items { twice(add: $n) } }") == [
        ("BAD_USER_INPUT", "Variable '$n' has invalid value: Expected a value of non-null type 'Int!' to be provided.")
    ]


async def test_suggestions_and_introspection_are_for_those_who_may_inspect() -> None:
    to = service()
    developer, stranger = CountingSession(may_inspect=True), CountingSession()
    introspection = "{ __schema { queryType { name } } }"

    async def message(document: str, session: CountingSession) -> str:
        outcome = await to.prepare(GraphQLRequest(document), session)
        return outcome[0].message if isinstance(outcome, list) else ""

    assert "Did you mean" in await message("{ helo }", developer)
    assert "Did you mean" not in await message("{ helo }", stranger)
    # one cache of documents for both, whoever comes first
    for _ in range(2):
        assert await message(introspection, developer) == ""
        assert "introspection has been disabled" in await message(introspection, stranger)
    assert {code for code, _ in await refused(to, introspection)} == {"GRAPHQL_VALIDATION_FAILED"}
    assert await answer(to, "{ __typename }") == {"data": {"__typename": "Query"}}


@pytest.mark.parametrize(
    ("document", "asks"),
    [
        ('{ __type(name: "Query") { name } }', True),
        ("{ hello ...F } fragment F on Query { s: __schema { description } }", True),
        # one operation of the document does
        ("query A { hello } query B { __schema { description } }", True),
        # the words alone
        ("# __schema\n{ hello }", False),
        ('{ hello(name: "__type") }', False),
        ("{ hello __typename }", False),
    ],
)
async def test_a_document_asks_for_the_schema_wherever_it_does(document: str, asks: bool) -> None:
    outcome = await service().prepare(
        GraphQLRequest(document, operation_name="A" if "A" in document else None), SESSION
    )

    assert isinstance(outcome, list) is asks


# trusted documents

TRUSTED = "{ hello }"
HASH = hashlib.sha256(TRUSTED.encode()).hexdigest()


def bound() -> CountingSession:
    """Whose project runs one document."""
    return CountingSession(trusted={HASH: TRUSTED})


async def code_of(to: GraphQLService, session: CountingSession, **members: object) -> str | None:
    """The code of the only error; None where the request may run."""
    try:
        outcome = await to.prepare(read_request(orjson.dumps(members)), session)
    except RequestError as error:
        return error.code
    if not isinstance(outcome, list):
        return None
    assert len(outcome) == 1
    return str((outcome[0].extensions or {})["code"])


@pytest.mark.parametrize(
    "members",
    [
        {"documentId": f"sha256:{HASH}"},
        {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": HASH}}},
        {"query": TRUSTED},
        {"query": TRUSTED, "documentId": f"sha256:{HASH}"},
        {"documentId": f"sha256:{HASH}", "extensions": {"persistedQuery": {"version": 1, "sha256Hash": HASH}}},
    ],
)
async def test_a_trusted_document_runs_by_every_name_and_as_text(members: dict[str, object]) -> None:
    assert await code_of(service(), bound(), **members) is None


async def test_a_document_that_is_not_trusted_is_refused_where_it_has_to_be() -> None:
    to, other = service(), "{ __typename }"
    digest = hashlib.sha256(other.encode()).hexdigest()
    by_hash = {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": digest}}}

    assert await code_of(to, bound(), query=other) == "DOCUMENT_NOT_TRUSTED"
    assert await code_of(to, bound(), query=other, **by_hash) == "DOCUMENT_NOT_TRUSTED"
    assert await code_of(to, bound(), **by_hash) == "PERSISTED_QUERY_NOT_FOUND"
    # somebody to whom that does not apply registers it for all
    assert await code_of(to, SESSION, query=other, **by_hash) is None
    assert await code_of(to, SESSION, **by_hash) is None
    assert await code_of(to, bound(), **by_hash) == "DOCUMENT_NOT_TRUSTED"


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"documentId": "sha256:" + "0" * 64}, "PERSISTED_QUERY_NOT_FOUND"),
        # no such form
        ({"documentId": ""}, "BAD_USER_INPUT"),
        ({"documentId": HASH}, "BAD_USER_INPUT"),
        ({"documentId": f"sha256:{HASH.upper()}"}, "BAD_USER_INPUT"),
        ({"documentId": f"x-md5:{HASH[:32]}"}, "BAD_USER_INPUT"),
        ({"documentId": 1}, "BAD_USER_INPUT"),
        # not that of the query beside it, or of the other name
        ({"documentId": "sha256:" + "0" * 64, "query": TRUSTED}, "BAD_USER_INPUT"),
        (
            {
                "documentId": f"sha256:{HASH}",
                "extensions": {"persistedQuery": {"version": 1, "sha256Hash": "0" * 64}},
            },
            "BAD_USER_INPUT",
        ),
    ],
)
async def test_a_document_id_is_the_hash_of_a_document(members: dict[str, object], code: str) -> None:
    assert await code_of(service(), bound(), **members) == code


# compiled input


class Point(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    x: int
    y: int = 7


async def compiled(variables: object, document: str) -> tuple[dict[str, Any], int]:
    """The answer, and how often the decoder was called."""
    calls = 0

    def decode(raw: bytes) -> Point:
        nonlocal calls
        calls += 1
        return msgspec.json.decode(raw, type=Point)

    to = GraphQLService(SmallApplication({"Point": decode}))
    request = read_request(orjson.dumps({"query": document, "variables": variables}))
    outcome = await to.prepare(request, SESSION)
    if isinstance(outcome, list):
        return orjson.loads(to.encode(outcome)), calls
    return orjson.loads(to.encode(await to.execute(outcome, CountingSession()))), calls


PLACE = "mutation($point: Point!, $label: String) { place(point: $point, label: $label) }"


async def test_a_decoder_makes_the_value_that_the_resolver_takes() -> None:
    found = await compiled({"point": {"x": 1}, "label": "here"}, PLACE)

    assert found == ({"data": {"place": "(Point(x=1, y=7), 'here', None)"}}, 1)


async def test_a_variable_without_value_and_a_list_go_the_ordinary_way() -> None:
    document = "mutation($points: [Point!], $label: String) { place(point: {x: 2}, points: $points, label: $label) }"

    found = await compiled({"points": [{"x": 1}]}, document)

    assert found == ({"data": {"place": "({'x': 2, 'y': 7}, None, [{'x': 1, 'y': 7}])"}}, 0)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"point": {"x": "1"}},
            "Variable '$point' has invalid value at .x: Int cannot represent non-integer value: '1'",
        ),
        (
            {"point": {}},
            "Variable '$point' has invalid value: "
            "Expected value of type 'Point' to include required field 'x', found: {}.",
        ),
        (
            {"point": None},
            "Variable '$point' has invalid value: Expected value of non-null type 'Point!' not to be None.",
        ),
        ({}, "Variable '$point' has invalid value: Expected a value of non-null type 'Point!' to be provided."),
        (
            {"point": {"x": 1}, "label": 5},
            "Variable '$label' has invalid value: String cannot represent a non string value: 5",
        ),
    ],
)
async def test_what_a_decoder_refuses_is_worded_as_ever(variables: object, message: str) -> None:
    ordinary = await refused(service(), PLACE, variables=variables)

    response, _ = await compiled(variables, PLACE)

    assert [error["message"] for error in response["errors"]] == [message]
    assert ordinary == [("BAD_USER_INPUT", message)]
    assert "data" not in response


async def test_what_only_ordinary_coercion_accepts_is_accepted() -> None:
    found = await compiled({"point": {"x": 1.0}}, PLACE)

    assert found[0] in (
        {"data": {"place": "({'x': 1, 'y': 7}, None, None)"}},
        {"data": {"place": "(Point(x=1, y=7), None, None)"}},
    )


# persisted queries


def persisted(digest: object, version: object = 1) -> dict[str, object]:
    return {"persistedQuery": {"version": version, "sha256Hash": digest}}


@pytest.mark.parametrize(
    "extensions",
    [
        {"persistedQuery": "x"},
        {"persistedQuery": []},
        {"persistedQuery": {}},
        persisted("abc"),
        persisted(5),
        persisted("g" * 64),
        persisted("a" * 64, version=2),
        persisted("a" * 64, version=None),
    ],
)
async def test_a_malformed_persisted_query_is_refused(extensions: dict[str, object]) -> None:
    outcome = await service().prepare(GraphQLRequest("{ hello }", extensions=extensions), SESSION)

    assert isinstance(outcome, list)
    assert (outcome[0].extensions or {})["code"] == "BAD_USER_INPUT"


async def test_a_persisted_query_is_found_by_its_hash_in_any_case() -> None:
    to = service()
    digest = hashlib.sha256(b"{ hello }").hexdigest()

    missing = await to.prepare(GraphQLRequest(extensions=persisted(digest)), SESSION)
    await to.prepare(GraphQLRequest("{ hello }", extensions=persisted(digest)), SESSION)
    found = await to.prepare(GraphQLRequest(extensions=persisted(digest.upper())), SESSION)

    assert isinstance(missing, list)
    assert (missing[0].extensions or {})["code"] == "PERSISTED_QUERY_NOT_FOUND"
    assert isinstance(found, Prepared)


async def test_a_request_without_document_is_refused() -> None:
    outcome = await service().prepare(GraphQLRequest(), SESSION)

    assert isinstance(outcome, list)
    assert outcome[0].message == "The request has no `query`."


# subscriptions


async def items(to: GraphQLService, document: str) -> list[dict[str, Any]]:
    stream = await to.subscribe(await prepared(to, document), CountingSession())
    assert isinstance(stream, AsyncIterator), stream
    return [orjson.loads(response) async for response in stream]


async def test_an_ordinary_source_is_executed_item_by_item() -> None:
    assert await items(service(), "subscription { plain(to: 3) { number } }") == [
        {"data": {"plain": {"number": number}}} for number in range(3)
    ]


async def test_an_item_that_takes_too_long_is_a_timeout_and_the_stream_goes_on() -> None:
    to = service(limits=Limits(execution_time=timedelta(milliseconds=20)))

    def is_timed_out(response: Any) -> bool:
        [error] = response["errors"]
        return (response["data"], error["message"], error["extensions"]["code"]) == (
            None,
            "The operation took longer than 0.02 seconds.",
            "TIMEOUT",
        )

    found = await items(to, "subscription { plain(to: 2) { number slow } }")
    assert [is_timed_out(each) for each in found] == [True, True]
    # nobody's request: each item with errors counts as one of its own
    assert len({each["errors"][0]["extensions"]["requestId"] for each in found}) == 2
    live = to.rendering(await prepared(to, "subscription { live { slow } }"), CountingSession())
    response = live({"live": {"number": 1}})
    assert not isinstance(response, bytes)
    assert is_timed_out(orjson.loads(await response))


async def test_what_a_source_raises_is_masked_and_ends_it() -> None:
    first, last = await items(service(), "subscription { breaks { number } }")

    assert first == {"data": {"breaks": {"number": 1}}}
    assert (last["errors"][0]["message"], "data" in last) == ("Internal error.", False)


async def test_a_source_that_is_left_is_closed() -> None:
    to = service()
    stream = await to.subscribe(await prepared(to, "subscription { plain(to: 9) { number } }"), CountingSession())
    assert isinstance(stream, AsyncIterator)

    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]

    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_subscription_that_is_refused_is_a_result() -> None:
    to = service()

    result = await to.subscribe(await prepared(to, "subscription { refused { number } }"), CountingSession())

    assert isinstance(result, ExecutionResult)
    assert [(error.message, error.path, error.extensions) for error in result.errors or ()] == [
        ("There is no such thing.", ["refused"], {"code": "NOT_FOUND"})
    ]


async def test_a_live_source_is_handed_over_and_its_items_rendered() -> None:
    to, session = service(), CountingSession()
    plan = await prepared(to, "subscription($add: Int) { live { number twice(add: $add) } }", variables={"add": 5})

    source = await to.subscribe(plan, session)
    rendering = to.rendering(plan, session)

    assert isinstance(source, LiveSource)
    rendered = [rendering({"live": {"number": number}}) for number in range(3)]
    assert rendered == [b'{"data":{"live":{"number":%d,"twice":%d}}}' % (n, 2 * n + 5) for n in range(3)]
    assert session.contexts == 4


async def test_an_item_that_fails_does_not_spoil_the_next() -> None:
    to = service()
    rendering = to.rendering(await prepared(to, "subscription { live { fails } }"), CountingSession())

    responses = [orjson.loads(rendering({"live": {"number": 1}})) for _ in range(2)]  # type: ignore[arg-type]

    assert [(response["data"], len(response["errors"])) for response in responses] == [({"live": None}, 1)] * 2


async def test_renderings_are_told_apart_by_what_they_select_and_not_by_the_root_arguments() -> None:
    to = service()
    document = "subscription S($after: Int, $add: Int) { live(after: $after) { twice(add: $add) } }"

    async def key(**variables: int) -> Hashable:
        return (await prepared(to, document, variables=variables)).rendering_key

    assert await key(after=1, add=5) == await key(after=2, add=5)
    assert await key(after=1, add=5) != await key(after=1, add=6)
    assert await key(add=5) != await key()
    assert hash(await key(add=5)) == hash(await key(after=9, add=5))


async def test_what_is_no_request_can_be_worded_by_the_service() -> None:
    to = service()

    assert to.error_list(RequestError("No.")) == [{"message": "No.", "extensions": {"code": "BAD_USER_INPUT"}}]
    assert to.error_list(DescribedError("Gone."))[0]["extensions"] == {"code": "NOT_FOUND"}
    assert to.error_list(RuntimeError("secret"))[0]["message"] == "Internal error."
    assert to.encode([GraphQLError("No.")]) == b'{"errors":[{"message":"No."}]}'
    assert to.encode(ExecutionResult({"a": orjson.Fragment(b"[1]")}, extensions={"x": 1})) == (
        b'{"data":{"a":[1]},"extensions":{"x":1}}'
    )
