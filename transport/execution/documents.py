"""From document text to an operation that may run: parsed, limited, validated, chosen; and persisted queries.

Everything here depends on the text alone, so its outcome is kept by text, the most recently used first, within a
bound of characters (a tree with its tokens takes some forty times its text). Refused documents are not kept: refusing
is cheap, and an attacker has more documents than we have memory.

A persisted query is stored only after its hash was checked, and the store is bounded by bytes: what falls out is sent
again by the client, as the protocol (Apollo's automatic persisted queries, version 1) provides.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from graphql import (
    ASTValidationRule,
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    GraphQLSyntaxError,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    Source,
    parse,
    specified_rules,
    validate,
)
from graphql.validation.validate import ValidationAbortedError

from transport.errors import (
    BAD_USER_INPUT,
    DEPTH_EXCEEDED,
    PARSE_FAILED,
    PERSISTED_QUERY_NOT_FOUND,
    VALIDATION_FAILED,
    RequestError,
    coded,
)
from transport.execution.limits import LimitExceededError, Limits, check_document, check_literals
from transport.execution.plan import OperationPlan

CACHED_CHARACTERS = 1_000_000
"""Of checked documents. Ordinary clients have some hundred documents of some hundred characters."""

PERSISTED_BYTES = 8 * 1024 * 1024
"""Of persisted queries: more than any set of clients has, less than anyone could mind losing."""

PERSISTED_QUERY_VERSION = 1

_HASH = re.compile(r"[0-9a-f]{64}\Z")
_SUSPECT_LITERAL = re.compile(r"\\u(?:0000|\{0+\})|[0-9]{19}|[0-9][eE][-+]?[0-9]{3}")
"""What an escaped NUL or a number over 64 bits looks like; only then are the literals looked at one by one."""

V = TypeVar("V")


class InvalidDocumentError(Exception):
    """A document that does not parse or does not validate. `errors` are worded and coded for the client."""

    def __init__(self, errors: list[GraphQLError]) -> None:
        super().__init__(errors[0].message)
        self.errors = errors


class BoundedCache(Generic[V]):
    """Values by text; beyond `capacity` the least recently used go. A value costs what it was said to cost."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used = 0
        self._values: OrderedDict[str, tuple[V, int]] = OrderedDict()

    def get(self, key: str) -> V | None:
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: str, value: V, cost: int) -> None:
        if key in self._values or cost > self._capacity:
            return
        self._values[key] = (value, cost)
        self._used += cost
        while self._used > self._capacity:
            _, (_, freed) = self._values.popitem(last=False)
            self._used -= freed

    def __len__(self) -> int:
        return len(self._values)


class Documents:
    """The documents of one schema, checked once."""

    def __init__(self, schema: GraphQLSchema, limits: Limits, *, introspection: bool, suggestions: bool) -> None:
        self._schema = schema
        self._limits = limits
        self._hide_suggestions = not suggestions
        self._rules: list[type[ASTValidationRule]] = list(specified_rules)
        if not introspection:
            self._rules.append(NoSchemaIntrospectionCustomRule)
        self._cache: BoundedCache[CheckedDocument] = BoundedCache(CACHED_CHARACTERS)

    def get(self, text: str) -> CheckedDocument:
        """The document, checked. Raises `LimitExceededError` or `InvalidDocumentError`."""
        document = self._cache.get(text)
        if document is None:
            document = CheckedDocument(self._schema, text, self._checked(text))
            self._cache.put(text, document, len(text))
        return document

    def _checked(self, text: str) -> DocumentNode:
        document = self._parsed(text)
        check_document(document, self._limits)
        if _SUSPECT_LITERAL.search(text):
            check_literals(document)
        errors = validate(
            self._schema,
            document,
            self._rules,
            max_errors=self._limits.validation_errors,
            hide_suggestions=self._hide_suggestions,
        )
        if errors:
            if errors[-1].message == "Validation aborted.":
                raise LimitExceededError("The document repeats or nests its fields too much to be validated.")
            raise InvalidDocumentError(
                [coded(error, VALIDATION_FAILED) for error in _without_repeated_directives(errors)]
            )
        return document

    def _parsed(self, text: str) -> DocumentNode:
        limits = self._limits
        if len(text) > limits.query_length:
            raise LimitExceededError(f"A document may be at most {limits.query_length} characters long.")
        try:
            return parse(Source(text, "request"), max_tokens=limits.tokens)
        except GraphQLSyntaxError as error:
            raise self._refusal(error) from None

    def _refusal(self, error: GraphQLSyntaxError) -> Exception:
        if f"Document contains more than {self._limits.tokens} tokens" in error.message:
            return LimitExceededError(f"A document may hold at most {self._limits.tokens} tokens.")
        if "nested too deeply" in error.message:
            return LimitExceededError(f"Fields may nest at most {self._limits.depth} levels deep.", DEPTH_EXCEEDED)
        return InvalidDocumentError([coded(error, PARSE_FAILED)])


class CheckedDocument:
    """A valid document and the plans of its operations, each made when it is first asked for."""

    __slots__ = ("_document", "_operations", "_plans", "_schema", "text")

    def __init__(self, schema: GraphQLSchema, text: str, document: DocumentNode) -> None:
        self.text = text
        self._schema = schema
        self._document = document
        self._operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
        self._plans: dict[str | None, OperationPlan] = {}

    def operation(self, name: str | None) -> OperationPlan:
        """The operation to run, as the specification's GetOperation chooses it.

        Raises `RequestError` if there is none of that name, or several and no name.
        """
        plan = self._plans.get(name)
        if plan is None:
            plan = self._plans[name] = OperationPlan(self._schema, self.text, self._document, self._chosen(name))
        return plan

    def _chosen(self, name: str | None) -> OperationDefinitionNode:
        if name is None:
            if len(self._operations) != 1:
                raise RequestError("The document holds several operations: `operationName` must say which one to run.")
            return self._operations[0]
        for operation in self._operations:
            if operation.name and operation.name.value == name:
                return operation
        raise RequestError("The document holds no operation of the name that `operationName` gives.")


class PersistedQueries:
    """Automatic persisted queries of all clients."""

    def __init__(self, capacity: int = PERSISTED_BYTES) -> None:
        self._queries: BoundedCache[str] = BoundedCache(capacity)

    def query(self, query: str | None, extensions: Mapping[str, Any] | None) -> str:
        """The text of the request's document: its own, or the one stored under the hash that it gives instead.

        Raises `RequestError` for a hash that is unknown, malformed, or not that of the query beside it.
        """
        digest = _digest((extensions or {}).get("persistedQuery"))
        if digest is None:
            if query is None:
                raise RequestError("The request has no `query`.", ill_typed=True)
            return query
        if query is None:
            return self._stored(digest)
        return self._verified(query, digest)

    def _stored(self, digest: str) -> str:
        query = self._queries.get(digest)
        if query is None:
            raise RequestError("PersistedQueryNotFound", PERSISTED_QUERY_NOT_FOUND)
        return query

    def _verified(self, query: str, digest: str) -> str:
        text = query.encode()
        if hashlib.sha256(text).hexdigest() != digest:
            raise RequestError("`sha256Hash` is not the hash of the query beside it.", BAD_USER_INPUT)
        self._queries.put(digest, query, len(text))
        return query


def _digest(persisted: object) -> str | None:
    if persisted is None:
        return None
    digest = persisted.get("sha256Hash") if isinstance(persisted, Mapping) else None
    if not isinstance(digest, str) or not _HASH.match(digest.lower()):
        raise RequestError("`extensions.persistedQuery.sha256Hash` must be 64 hexadecimal digits.", ill_typed=True)
    if not isinstance(persisted, Mapping) or persisted.get("version") != PERSISTED_QUERY_VERSION:
        raise RequestError("`extensions.persistedQuery.version` must be 1.", ill_typed=True)
    return digest.lower()


def _without_repeated_directives(errors: list[GraphQLError]) -> list[GraphQLError]:
    """At most one error about unknown directives: ten of them are an amplifier, and the first one says it all."""
    unknown = [error for error in errors if error.message.startswith("Unknown directive")]
    if len(unknown) < 2:
        return errors
    return [
        error
        for error in errors
        if error is unknown[0] or not (error in unknown or isinstance(error, ValidationAbortedError))
    ]
