"""What the fuzz of the served schema is made of: a gateway with data in it, documents for every root field, a judge.

Documents come from the schema alone (schemathesis, hypothesis-graphql). What those would never guess is put in, into
most arguments: ids, cursors, paths, page sizes and texts that lead somewhere, as literals or as variables.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random
from typing import Any

import hypothesis_graphql
import requests
from graphql import (
    REMOVE,
    ArgumentNode,
    DocumentNode,
    FieldNode,
    GraphQLNonNull,
    GraphQLSchema,
    IntValueNode,
    ListValueNode,
    NameNode,
    ObjectFieldNode,
    ObjectValueNode,
    OperationDefinitionNode,
    OperationType,
    SelectionNode,
    StringValueNode,
    ValueNode,
    VariableNode,
    Visitor,
    get_named_type,
    parse,
    print_ast,
    value_from_ast_untyped,
    visit,
)
from hypothesis import strategies as st
from hypothesis_graphql import nodes

from schema import build_schema

PATIENCE = 10.0
"""Seconds for an answer of a machine that may be doing much else. Half of them take a few milliseconds."""
FAULTS = frozenset({"INTERNAL", "TIMEOUT", "UNAVAILABLE"})
"""Codes that no input may lead to."""
LONGEST_POOL = 40
"""Of the values that a gateway is asked for, per kind."""

SCHEMA = build_schema()._schema
INSTANTS = ("2026-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z")
TEXTS = (
    *("", " ", "a", "x" * 300, "ada", "user_001", "ada@example.com", "+14155550132", "Europe/Berlin", "de-AT", "P1D"),
    *("order.placed", "auth.signed_up", "order.*", "*", "profile.traits.plan", "event.properties.amount", "profile.id"),
    *("https://example.com/hook", "http://127.0.0.1/", "{{ user.id }}", "{% for x in (1..9) %}x{% endfor %}", "{{"),
    *("0 9 * * *", "%", "_", "\\", "'", '"', "é", "😀", "\u202e", "\n", "null", "NaN", "1e400", "-0", "{}", "[]"),
)
PATHS = (
    *("profile.traits.plan", "profile.traits.email", "profile.userId", "event.properties.amount", "event.eventType"),
    *("event.context.country", "events.count", "consent.EMAIL", "audience.x", "trigger.properties.a", "x", ""),
)
USERS = ("ada", "user_001", "user_002", "nobody", "x" * 256)
TYPES = ("order.placed", "auth.signed_up", "email.*", "*.failed", "*", "push.sent", "made.up")
PLAUSIBLE: Mapping[str, Sequence[Any]] = {
    "path": PATHS,
    "groupBy": PATHS,
    "breakdown": PATHS,
    "userId": USERS,
    "userIds": USERS,
    "anonymousId": ("device_1", *USERS),
    "eventType": TYPES,
    "eventTypes": TYPES,
    "events": TYPES,
    "first": (1, 2, 20, 100),
    "last": (1, 2, 20, 100),
    "since": ("2026-01-01T00:00:00Z", "2026-11-01T00:00:00+01:00"),
    "until": ("2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
    "timezone": ("UTC", "Europe/Berlin", "America/Los_Angeles", "Pacific/Kiritimati"),
    "email": ("ada@example.com", "ADA@EXAMPLE.COM", "x@y"),
    "to": ("ada@example.com", "+14155550132"),
    "url": ("https://example.com/hook", "https://192.0.2.1/", "http://localhost/"),
    "name": ("a", "t", "f", "birthday", "New", "x" * 100),
    "password": ("correct horse battery staple", "short"),
    "document": ("{ viewer { role } }", "query A { viewer { role } } query B { events { totalCount } }", "{"),
    "windowSeconds": (1, 60, 86_400, 2_592_000),
    "windowDays": (1, 7, 30),
    "key": ("birthday", "k1"),
    "period": ("P30D", "P1D", "PT12H"),
    "intervalMs": (250, 1_000),
    "groupLimit": (1, 10),
    "retrySchedule": (1, 5, 3_600),
}
"""What an argument or a member of an input of this name is usually given."""
PREFIXES = {"audienceId": "aud_", "workflowId": "wfl_", "batchId": "bat_", "templateId": "tpl_", "deliveryId": "dlv_"}
"""Of ids that arguments of these names take."""
CONDITIONS = ("path", "events", "any", "all", "not")
"""Of which a condition has one."""
USUAL = 0.85
"""Of them that are."""
NUMBERS = (0, 1, -1, 20, 100, 101, 2**31 - 1, -(2**31))


@dataclass
class Answer:
    """What came back, and what for."""

    caller: str
    body: Mapping[str, Any]
    status: int
    content: bytes
    seconds: float

    def check(self) -> None:
        """Fails for a fault of the gateway's."""
        assert self.seconds < PATIENCE, (self.seconds, self.caller, self.body)
        assert self.status < 500, (self.status, self.content, self.caller, self.body)
        for error in self.errors():
            assert error["extensions"]["code"] not in FAULTS, (error, self.caller, self.body)
            assert error["extensions"]["requestId"], error

    def errors(self) -> Iterator[Any]:
        """Those of a response, or of every event of a stream."""
        texts = [self.content]
        if not self.content.startswith(b"{"):
            texts = [line.removeprefix(b"data: ") for line in self.content.split(b"\n") if line.startswith(b"data: {")]
        for text in texts:
            yield from json.loads(text).get("errors") or ()


@dataclass
class Target:
    """A gateway, those who ask it, and what it knows."""

    url: str
    keys: Mapping[str, str | None]
    session: requests.Session = field(default_factory=requests.Session)
    ids: Sequence[str] = ()
    cursors: dict[str, list[str]] = field(default_factory=dict)
    """By the root field whose they are."""

    def headers(self, caller: str) -> dict[str, str]:
        key = self.keys[caller]
        return {} if key is None else {"x-api-key": key}

    def ask(self, caller: str, document: str, variables: Mapping[str, Any] | None = None) -> Answer:
        """Send one operation; of a stream, read what comes at once."""
        body = {"query": document, "variables": variables or {}}
        started = time.monotonic()
        if document.startswith("subscription"):
            status, content = self._beginning(caller, body)
        else:
            response = self.session.post(self.url, json=body, headers=self.headers(caller), timeout=PATIENCE)
            status, content = response.status_code, response.content
        return Answer(caller, body, status, content, time.monotonic() - started)

    def data(self, document: str, **variables: Any) -> Any:
        """What ADMIN is answered, without an error."""
        answer = json.loads(self.ask("ADMIN", document, variables).content)
        assert "errors" not in answer, answer
        return answer["data"]

    def learn(self) -> None:
        """Ask for ids and cursors of everything that lists have to show."""
        ids = set(self.ids)
        head = self.data("{ viewer { project { head } } }")["viewer"]["project"]["head"]
        for name, root in (SCHEMA.query_type.fields if SCHEMA.query_type else {}).items():
            named = get_named_type(root.type)
            if not getattr(named, "name", "").endswith("Connection"):
                continue
            required = any(isinstance(argument.type, GraphQLNonNull) for argument in root.args.values())
            has_id = "id" in get_named_type(get_named_type(named.fields["edges"].type).fields["node"].type).fields  # type: ignore[union-attr]
            if required:
                continue
            answer = self.data(f"{{ {name} {{ edges {{ cursor {'node { id }' if has_id else ''} }} }} }}")[name]
            for edge in (answer["edges"] if answer else ())[:LONGEST_POOL]:
                self.cursors.setdefault(name, [head]).append(edge["cursor"])
                ids |= {edge["node"]["id"]} if has_id else set()
        for stream in ("deliveryUpdates", "workflowRunUpdates", "audienceChanges"):
            self.cursors[stream] = [head]
        self.cursors["eventStream"] = self.cursors["events"]
        self.ids = sorted(ids)

    def _beginning(self, caller: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
        headers = {**self.headers(caller), "accept": "text/event-stream"}
        with self.session.post(self.url, json=body, headers=headers, timeout=PATIENCE, stream=True) as response:
            content = b""
            for piece in response.iter_content(None):
                content += piece
                if content.removeprefix(b":\n\n"):
                    break
            return response.status_code, content


def scalars(target: Target) -> dict[str, st.SearchStrategy[ValueNode]]:
    """Values of scalars, most of which lead somewhere."""
    known = st.sampled_from([*target.ids, "prj_x", "sha256:" + "0" * 64])
    cursors = st.sampled_from([*(each[-1] for each in target.cursors.values()), "", "A" * 40])
    texts = st.one_of(st.sampled_from(TEXTS), st.sampled_from(TEXTS), known, st.text(max_size=20))
    json_values = st.recursive(
        st.none()
        | st.booleans()
        | st.sampled_from(NUMBERS)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.sampled_from(TEXTS),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("a", "name", "id", "")), inner),
        max_leaves=6,
    )
    return {
        "ID": (known | known | texts).map(nodes.String),
        "String": texts.map(nodes.String),
        "Int": (st.sampled_from(NUMBERS) | st.integers(0, 100)).map(nodes.Int),
        "Cursor": cursors.map(nodes.String),
        "DateTime": st.sampled_from(INSTANTS).map(nodes.String),
        "BigInt": st.sampled_from((*NUMBERS, 2**63 - 1, -(2**63))).map(nodes.Int),
        "JSON": json_values.map(_json_node),
    }


def documents(target: Target, root_field: str) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """Operations on one root field, and their variables."""
    root, _, name = root_field.partition(".")
    strategy = hypothesis_graphql.queries(
        _schema_of(root),
        fields=[name],
        custom_scalars=scalars(target),
        print_ast=lambda node: print_ast(node),
        allow_x00=False,
    )
    ids = {each: [known for known in target.ids if known.startswith(prefix)] for each, prefix in PREFIXES.items()}
    usual = {**PLAUSIBLE, **ids, **dict.fromkeys(("after", "before"), target.cursors.get(name, ("",)))}

    def written(drawn: tuple[Any, Random, bool]) -> tuple[str, dict[str, Any]]:
        text, random, as_variables = drawn
        return _operation(root.lower(), visit(parse(str(text)), _Usual(usual, random)), as_variables=as_variables)

    return st.tuples(strategy, st.randoms(use_true_random=False), st.booleans()).map(written)


def root_fields() -> list[str]:
    """Of all three roots."""
    roots = [SCHEMA.query_type, SCHEMA.mutation_type, SCHEMA.subscription_type]
    return [f"{root.name}.{name}" for root in roots if root is not None for name in root.fields]


@cache
def _schema_of(root: str) -> GraphQLSchema:
    """The schema with one of its roots in the place of the queries: all are written alike."""
    found = SCHEMA.get_root_type(OperationType(root.lower()))
    return GraphQLSchema(
        query=found, types=[each for each in SCHEMA.type_map.values() if not each.name.startswith("__")]
    )


class _Usual(Visitor):
    """Replaces most values by what is usually given under their names."""

    def __init__(self, usual: Mapping[str, Sequence[Any]], random: Random) -> None:
        super().__init__()
        self._usual = usual
        self._random = random

    def leave_argument(self, node: ArgumentNode, *_: Any) -> Any:
        if node.name.value in ("last", "before") and self._random.random() < USUAL:
            return REMOVE  # nobody pages both ways at once
        return replace(node, value=self._value(node.name.value, node.value))

    def leave_object_field(self, node: ObjectFieldNode, *_: Any) -> ObjectFieldNode:
        return replace(node, value=self._value(node.name.value, node.value))

    def leave_object_value(self, node: ObjectValueNode, *_: Any) -> ObjectValueNode:
        kinds = [each.name.value for each in node.fields if each.name.value in CONDITIONS]
        if len(kinds) < 2 or self._random.random() > USUAL:
            return node
        left_out = {*CONDITIONS} - {self._random.choice(kinds)}
        if "path" in left_out:
            left_out |= {"op", "value", "values"}
        return replace(node, fields=tuple(each for each in node.fields if each.name.value not in left_out))

    def _value(self, name: str, value: ValueNode) -> ValueNode:
        if isinstance(value, ListValueNode):
            values = tuple(self._value(name, each) for each in value.values)
            return replace(value, values=values * 2 if name == "steps" and len(values) == 1 else values)
        choices = self._usual.get(name)
        if not choices or self._random.random() > USUAL:
            return value
        wanted = int if isinstance(value, IntValueNode) else str if isinstance(value, StringValueNode) else None
        fitting = [each for each in choices if type(each) is wanted]
        return _json_node(self._random.choice(fitting)) if fitting else value


def _operation(kind: str, document: DocumentNode, *, as_variables: bool) -> tuple[str, dict[str, Any]]:
    """The same as an operation of its root, the arguments of its root fields in variables if asked for."""
    [operation] = document.definitions
    assert isinstance(operation, OperationDefinitionNode)
    variables: dict[str, Any] = {}
    types: list[str] = []
    selections = operation.selection_set.selections
    if as_variables:
        selections = tuple(_without_literals(kind, each, variables, types) for each in selections)
    declared = ", ".join(f"$v{number}: {each}" for number, each in enumerate(types))
    body = print_ast(replace(operation.selection_set, selections=selections))
    return f"{kind} {f'({declared}) ' if declared else ''}{body}", variables


def _without_literals(
    kind: str, selection: SelectionNode, variables: dict[str, Any], types: list[str]
) -> SelectionNode:
    """A root field whose arguments are variables, which are added to those there are."""
    root = SCHEMA.get_root_type(OperationType(kind))
    if root is None or not isinstance(selection, FieldNode) or selection.name.value not in root.fields:
        return selection
    declared = root.fields[selection.name.value].args
    arguments = []
    for argument in selection.arguments or ():
        name = f"v{len(types)}"
        types.append(str(declared[argument.name.value].type))
        variables[name] = value_from_ast_untyped(argument.value)
        arguments.append(ArgumentNode(name=argument.name, value=VariableNode(name=NameNode(value=name))))
    return replace(selection, arguments=tuple(arguments))


def _json_node(value: Any) -> ValueNode:
    if isinstance(value, dict):
        named = {key or "_": _json_node(each) for key, each in value.items()}
        return nodes.Object([ObjectFieldNode(name=NameNode(value=key), value=each) for key, each in named.items()])
    if isinstance(value, list):
        return nodes.List([_json_node(each) for each in value])
    if value is None:
        return nodes.Null
    if isinstance(value, bool):
        return nodes.Boolean(value)
    if isinstance(value, int):
        return nodes.Int(value)
    return nodes.Float(value) if isinstance(value, float) else nodes.String(value)
