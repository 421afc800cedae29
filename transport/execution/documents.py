"""From a request to an operation that may run: its document found, parsed, limited, validated, the operation chosen.

What becomes of a document depends on its text alone, so it is kept by text, the most recently used first, within a
bound of characters (a tree with its tokens takes some forty times its text). Refused documents are not kept: refusing
is cheap, and an attacker has more documents than we have memory. Who may ask for the schema is no property of a text:
a document that does is kept like others, and refused to those who may not.

A request that names its document instead of sending it does so by SHA-256: in `documentId` (GraphQL over HTTP, appendix
A) or in `extensions.persistedQuery` (Apollo). Both find trusted documents, which somebody registered, and automatic
persisted queries.

An automatic persisted query is stored only after its hash was checked, and the store is bounded by bytes: what falls
out is sent again by the client, as the protocol (version 1) provides.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    GraphQLSyntaxError,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    Source,
    parse,
    validate,
)
from graphql.validation.validate import ValidationAbortedError

from transport.errors import (
    BAD_USER_INPUT,
    DEPTH_EXCEEDED,
    PARSE_FAILED,
    VALIDATION_FAILED,
    RequestError,
    coded,
)
from transport.execution.limits import LimitExceededError, Limits, check_document, check_literals
from transport.execution.plan import OperationPlan
from transport.execution.requests import GraphQLRequest

CACHED_CHARACTERS = 1_000_000
"""Of checked documents. Ordinary clients have some hundred documents of some hundred characters."""

PERSISTED_BYTES = 8 * 1024 * 1024
"""Of persisted queries: more than any set of clients has, less than anyone could mind losing."""

PERSISTED_QUERY_VERSION = 1

_HASH = re.compile(r"[0-9a-f]{64}\Z")
_DOCUMENT_ID = re.compile(r"sha256:([0-9a-f]{64})\Z")
_INTROSPECTION = re.compile(r"__(?:schema|type)\b")
"""What a document that asks for the schema holds somewhere; one that holds it need not ask."""
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

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)


class Documents:
    """The documents of one schema, checked once."""

    def __init__(self, schema: GraphQLSchema, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._schema = schema
        self._cache: BoundedCache[CheckedDocument] = BoundedCache(CACHED_CHARACTERS)

    def __contains__(self, text: str) -> bool:
        """Whether it was checked already, so that `get` takes no time."""
        return text in self._cache

    def get(self, text: str, *, may_inspect: bool) -> CheckedDocument:
        """The document, checked. Raises `LimitExceededError` or `InvalidDocumentError`.

        Without `may_inspect` it may not ask for the schema, and errors do not say what a name was meant to be.
        """
        document = self._cache.get(text)
        if document is None:
            tree = self._checked(text, may_inspect=may_inspect)
            document = CheckedDocument(self._schema, text, tree, introspection=self._introspection(text, tree))
            self._cache.put(text, document, len(text))
        if document.introspection and not may_inspect:
            raise InvalidDocumentError(document.introspection)
        return document

    def complaints(self, text: str) -> Sequence[str]:
        """All that keeps a document from being run by those who may ask for the schema; nothing where it may be."""
        try:
            self.get(text, may_inspect=True)
        except InvalidDocumentError as error:
            return [each.message for each in error.errors]
        except RequestError as error:
            return [error.message]
        return ()

    def _introspection(self, text: str, document: DocumentNode) -> list[GraphQLError]:
        if not _INTROSPECTION.search(text):
            return []
        rules = [NoSchemaIntrospectionCustomRule]
        errors = validate(self._schema, document, rules, max_errors=self.limits.validation_errors)
        return [coded(error, VALIDATION_FAILED) for error in errors if not isinstance(error, ValidationAbortedError)]

    def _checked(self, text: str, *, may_inspect: bool) -> DocumentNode:
        document = self._parsed(text)
        check_document(document, self.limits)
        if _SUSPECT_LITERAL.search(text):
            check_literals(document)
        errors = validate(
            self._schema,
            document,
            max_errors=self.limits.validation_errors,
            hide_suggestions=not may_inspect,
        )
        if errors:
            if errors[-1].message == "Validation aborted.":
                raise LimitExceededError("The document repeats or nests its fields too much to be validated.")
            raise InvalidDocumentError(
                [coded(error, VALIDATION_FAILED) for error in _without_repeated_directives(errors)]
            )
        return document

    def _parsed(self, text: str) -> DocumentNode:
        limits = self.limits
        if len(text) > limits.query_length:
            raise LimitExceededError(f"A document may be at most {limits.query_length} characters long.")
        try:
            return parse(Source(text, "request"), max_tokens=limits.tokens)
        except GraphQLSyntaxError as error:
            raise self._refusal(error) from None

    def _refusal(self, error: GraphQLSyntaxError) -> Exception:
        if f"Document contains more than {self.limits.tokens} tokens" in error.message:
            return LimitExceededError(f"A document may hold at most {self.limits.tokens} tokens.")
        if "nested too deeply" in error.message:
            return LimitExceededError(f"Fields may nest at most {self.limits.depth} levels deep.", DEPTH_EXCEEDED)
        return InvalidDocumentError([coded(error, PARSE_FAILED)])


class CheckedDocument:
    """A valid document and the plans of its operations, each made when it is first asked for.

    `introspection` is what those are told who may not ask for the schema; nothing if it does not ask.
    """

    __slots__ = ("_document", "_operations", "_plans", "_schema", "introspection", "text")

    def __init__(
        self, schema: GraphQLSchema, text: str, document: DocumentNode, *, introspection: list[GraphQLError]
    ) -> None:
        self.text = text
        self.introspection = introspection
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
    """Automatic persisted queries of all clients, by their hash."""

    def __init__(self, capacity: int = PERSISTED_BYTES) -> None:
        self._queries: BoundedCache[str] = BoundedCache(capacity)

    def get(self, digest: str) -> str | None:
        """The document with this hash."""
        return self._queries.get(digest)

    def keep(self, query: str, digest: str) -> None:
        """Keep a document whose hash was checked."""
        self._queries.put(digest, query, len(query.encode()))


def named_document(request: GraphQLRequest) -> str | None:
    """The hash of the document that the request names (hex, lower case); None if it names none.

    Raises `RequestError` if a name is malformed, if two differ, or if it is not that of the document beside it.
    """
    if request.document_id is None and not request.extensions:
        return None
    names = {_identified(request.document_id), _persisted((request.extensions or {}).get("persistedQuery"))} - {None}
    if len(names) > 1:
        raise RequestError("`documentId` and `sha256Hash` name two different documents.", BAD_USER_INPUT)
    digest = names.pop() if names else None
    if digest and request.query is not None and hashlib.sha256(request.query.encode()).hexdigest() != digest:
        name = "`sha256Hash`" if request.document_id is None else "`documentId`"
        raise RequestError(f"{name} is not the hash of the query beside it.", BAD_USER_INPUT)
    return digest


def _identified(document_id: str | None) -> str | None:
    if document_id is None:
        return None
    found = _DOCUMENT_ID.match(document_id)
    if found is None:
        raise RequestError("`documentId` must be `sha256:` and 64 hexadecimal digits in lower case.", ill_typed=True)
    return found[1]


def _persisted(persisted: object) -> str | None:
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
