"""Requests in, results out: what HTTP, WebSocket and SSE all do with a GraphQL request.

`GraphQLService.prepare` answers everything that can be answered without the product: which document, whether it is
within the limits, valid and unambiguous, what its variables are, what it costs, and whether its holder has so much
left. Nothing has run when it returns, and what it costs has been taken. `execute` and `subscribe` then run it, in the
time the limits allow, and mask what the client must not read; what lists returned less than they might is given back.

Left to others: who speaks (the session is handed in), how bytes come and go, and how a live source shares its work.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import AsyncIterator, Awaitable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from graphql import ExecutionResult, GraphQLError, OperationType, create_source_event_stream
from graphql.execution.values import VariableValues

from transport.application import Account, Application, LiveSource, Refusal, Rendering, Session
from transport.errors import (
    BAD_USER_INPUT,
    DOCUMENT_NOT_TRUSTED,
    PERSISTED_QUERY_NOT_FOUND,
    RATE_LIMITED,
    RETRY_AFTER_MS,
    TIMEOUT,
    ErrorReporter,
    RequestError,
    coded,
    formatted,
)
from transport.execution.cost import Cost
from transport.execution.documents import (
    CheckedDocument,
    Documents,
    InvalidDocumentError,
    PersistedQueries,
    named_document,
)
from transport.execution.limits import Limits
from transport.execution.open_streams import OpenStream, OpenStreams
from transport.execution.plan import OperationPlan
from transport.execution.planned_executor import PlannedExecutor
from transport.execution.requests import GraphQLRequest, read_request
from transport.execution.turns import LARGE_BODY_BYTES, Turns
from transport.request_ids import RequestTrace, current, entered

__all__ = [
    "GraphQLRequest",
    "GraphQLService",
    "Prepared",
    "RequestError",
    "read_request",
]

TOO_MANY_STREAMS_MS = 5_000
"""What a client with too many open streams is told to wait: they end when somebody closes them."""
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
"""Between tries of an item whose data is away."""
_ERRORS_FIRST = b'{"errors"'
"""How a response with errors begins."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An operation that may run: parsed, limited, validated, chosen, its variables coerced, its cost taken.

    `cost` is the `price` for these variables, in points; they were taken from `account`, if there is one.
    """

    plan: OperationPlan
    variable_values: VariableValues
    price: Cost
    cost: int
    account: Account | None
    inspects: bool = False
    """Whether it asks for the schema, which is long work."""

    @property
    def kind(self) -> OperationType:
        """Query, mutation or subscription."""
        return self.plan.kind

    @property
    def operation_name(self) -> str | None:
        """The name of the operation in its document."""
        return self.plan.name

    @property
    def rendering_key(self) -> Hashable:
        """Equal for operations that give the same bytes for the same item of a live source."""
        return self.plan.rendering_key(self.variable_values)


class GraphQLService:
    """One schema, served. Holds the caches of documents and persisted queries, and nothing of any client."""

    def __init__(
        self,
        application: Application,
        limits: Limits | None = None,
        *,
        documents: Documents | None = None,
    ) -> None:
        """`documents` are those of the application's schema, where somebody else has need of them too."""
        self._application = application
        self._documents = documents or Documents(application.schema, limits)
        self.limits = self._documents.limits
        self._persisted = PersistedQueries()
        self._turns = Turns(self.limits.waiting)
        self.streams = OpenStreams(self.limits.streams_per_holder)
        self._weights = application.weights
        self._reporter = ErrorReporter(application.describe_error)

    async def read(self, body: bytes) -> GraphQLRequest:
        """Read the JSON text of one request, a large one in its turn. Raises `RequestError`."""
        if len(body) < LARGE_BODY_BYTES:
            return read_request(body)
        async with self._turns:
            return read_request(body)

    async def prepare(self, request: GraphQLRequest, session: Session) -> Prepared | list[GraphQLError]:
        """Check the request, choose its operation and take what it costs from who asks.

        Errors are worded for the client, each with its code.
        """
        try:
            text = await self._text(request, session)
            document = await self._document(text, may_inspect=session.may_inspect)
            plan = document.operation(request.operation_name)
            values = plan.coerced(request.variables, self._application.decoders)
        except InvalidDocumentError as refusal:
            return refusal.errors
        except Exception as error:
            return [self._reporter.shown(error)]
        if isinstance(values, list):
            return [coded(error, BAD_USER_INPUT) for error in values]
        try:
            price = plan.cost(self._weights)
            cost = price.check(values.coerced, self.limits.cost)
        except RequestError as error:
            return [error.as_graphql_error()]
        account = session.account
        if account is not None and (answer := account.take(cost)) is not None:
            refused = await answer if isinstance(answer, Awaitable) else answer
            if refused is not None:
                return [_rate_limited(cost, account, refused)]
        return Prepared(plan, values, price, cost, account, inspects=bool(document.introspection))

    def enter_stream(self, stream: OpenStream, prepared: Prepared, session: Session) -> list[GraphQLError] | None:
        """Take a place among the open streams, which pay for their items. The error where there is none left."""
        inside = prepared.price.inside(prepared.variable_values.coerced)
        entered = self.streams.enter(stream, holder=session.holder, account=prepared.account, cost_of_item=1 + inside)
        return None if entered else [_too_many_streams(self.streams.max_per_holder)]

    async def _document(self, text: str, *, may_inspect: bool) -> CheckedDocument:
        """The document, checked; a new one in its turn."""
        if text in self._documents:
            return self._documents.get(text, may_inspect=may_inspect)
        async with self._turns:
            return self._documents.get(text, may_inspect=may_inspect)

    async def _text(self, request: GraphQLRequest, session: Session) -> str:
        """The text of the request's document: its own, or the one that it names instead. Raises `RequestError`."""
        digest, query = named_document(request), request.query
        if query is None:
            if digest is None:
                raise RequestError("The request has no `query`.", ill_typed=True)
            query = self._persisted.get(digest)
            if query is None:
                return await _trusted(digest, session)
        if not await session.may_run(query):
            raise RequestError("This project runs trusted documents only, and this is none.", DOCUMENT_NOT_TRUSTED)
        if digest is not None:
            self._persisted.keep(query, digest)
        return query

    async def execute(self, prepared: Prepared, session: Session) -> ExecutionResult:
        """Run a query or mutation. Errors are masked; past the time limit the result is one error, TIMEOUT.

        `extensions.cost` says what it cost.
        """
        result = await self._execute(prepared, session)
        account = prepared.account
        if account is not None:
            actual = _settled(prepared, account, result) if prepared.price.has_lists else prepared.cost
            result.extensions = {"cost": _shown_cost(prepared.cost, actual, account)}
        return result

    async def _execute(self, prepared: Prepared, session: Session) -> ExecutionResult:
        limit = self.limits.execution_time.total_seconds()
        try:
            context = session.context(prepared.cost)
            executor = PlannedExecutor.of(prepared.plan, prepared.variable_values, context)
            if prepared.inspects:
                async with self._turns:  # what it asks for besides is waited for outside
                    outcome = executor.run()
            else:
                outcome = executor.run()
            if isinstance(outcome, ExecutionResult):
                return self._masked(outcome)
            async with asyncio.timeout(limit):
                return self._masked(await outcome)
        except TimeoutError:
            return ExecutionResult(None, [_timed_out(limit)])
        except Exception as error:
            return ExecutionResult(None, [self._reporter.shown(error)])

    async def subscribe(
        self, prepared: Prepared, session: Session
    ) -> LiveSource | AsyncIterator[bytes] | ExecutionResult:
        """Start a subscription.

        Gives the live source to join, or an iterator of encoded responses, or the errors for which there is neither.
        """
        limit = self.limits.subscribe_time.total_seconds()
        try:
            executor = PlannedExecutor.of(prepared.plan, prepared.variable_values, session.context(prepared.cost))
            async with asyncio.timeout(limit):
                source = create_source_event_stream(executor)
                if inspect.isawaitable(source):
                    source = await source
        except TimeoutError:
            return ExecutionResult(None, [_timed_out(limit)])
        except Exception as error:
            return ExecutionResult(None, [self._reporter.shown(error)])
        if isinstance(source, ExecutionResult):
            return self._masked(source)
        if isinstance(source, LiveSource):
            return source
        return self._responses(prepared, session, source)

    def rendering(self, prepared: Prepared, session: Session) -> Rendering:
        """How the items of a live source become bytes for this operation."""
        return _Rendering(self, prepared, session, None)

    def encode(self, result: ExecutionResult | Sequence[GraphQLError]) -> bytes:
        """The JSON of the GraphQL response, errors first. Without `data` for errors of the request."""
        if not isinstance(result, ExecutionResult):
            return _dumps({"errors": formatted(result)})
        response: dict[str, Any] = {"data": result.data}
        if result.errors:
            response = {"errors": formatted(result.errors), **response}
        if result.extensions:
            response["extensions"] = result.extensions
        return _dumps(response)

    def error_list(self, error: BaseException) -> list[Any]:
        """The `errors` of a response to a request that failed like this: masked and formatted."""
        return formatted([self._reporter.shown(error)])

    def error(self, error: BaseException) -> GraphQLError:
        """The error as the client may see it."""
        return self._reporter.shown(error)

    def _masked(self, result: ExecutionResult) -> ExecutionResult:
        if result.errors is None:
            return result
        shown = [self._reporter.shown(error) for error in result.errors]
        return ExecutionResult(result.data, shown, result.extensions)

    async def _responses(self, prepared: Prepared, session: Session, source: Any) -> AsyncIterator[bytes]:
        render = _Rendering(self, prepared, session, current())
        iterator = aiter(source)
        try:
            async for item in iterator:
                response = render(item)
                yield response if isinstance(response, bytes) else await response
        except Exception as error:
            yield self.encode([self._reporter.shown(error)])
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()


class _Rendering:
    """Executes one prepared subscription for one item after another.

    `trace` is the request that it does so for. Without one the bytes are for many, and an item with errors counts as a
    request of its own.
    """

    __slots__ = ("_service", "_session", "_template", "_trace", "key")

    def __init__(
        self, service: GraphQLService, prepared: Prepared, session: Session, trace: RequestTrace | None
    ) -> None:
        self.key = prepared.rendering_key
        self._service = service
        self._session = session
        self._trace = trace
        self._template = PlannedExecutor.of(prepared.plan, prepared.variable_values, None)

    def __call__(self, payload: object, /) -> bytes | Awaitable[bytes]:
        outcome = self._run(payload)
        if isinstance(outcome, ExecutionResult):
            return self._encoded(outcome)
        return self._awaited(outcome, payload)

    def is_whole(self, response: bytes, /) -> bool:
        """See `Rendering`: `encode` writes errors first."""
        return not response.startswith(_ERRORS_FIRST)

    def _run(self, payload: object) -> ExecutionResult | Awaitable[ExecutionResult]:
        return self._template.for_item(payload, self._session.context()).run()

    async def _awaited(self, outcome: Awaitable[ExecutionResult], payload: object) -> bytes:
        """Again and again while what is needed is away for a moment: an item is late then, and never lost."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            result = await self._within_limit(outcome)
            if result.errors is None:
                return self._service.encode(result)
            with entered(self._trace or RequestTrace()):
                result = self._service._masked(result)
                if not _is_passing(result):
                    return self._service.encode(result)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 (jitter)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            again = self._run(payload)
            if isinstance(again, ExecutionResult):
                return self._encoded(again)
            outcome = again

    async def _within_limit(self, outcome: Awaitable[ExecutionResult]) -> ExecutionResult:
        """Everybody who shares the rendering waits for it. Then its errors are TIMEOUT, and the next item follows."""
        limit = self._service.limits.execution_time.total_seconds()
        try:
            async with asyncio.timeout(limit):
                return await outcome
        except TimeoutError:
            return ExecutionResult(None, [_timed_out(limit)])

    def _encoded(self, result: ExecutionResult) -> bytes:
        if result.errors is None:
            return self._service.encode(result)
        with entered(self._trace or RequestTrace()):
            return self._service.encode(self._service._masked(result))


async def _trusted(digest: str, session: Session) -> str:
    query = await session.trusted_document(digest)
    if query is None:
        raise RequestError("PersistedQueryNotFound", PERSISTED_QUERY_NOT_FOUND)
    return query


def _is_passing(result: ExecutionResult) -> bool:
    """Whether a client would be told to try again: what was needed is away for a moment."""
    return any(RETRY_AFTER_MS in (error.extensions or {}) for error in result.errors or ())


def _rate_limited(cost: int, account: Account, refusal: Refusal) -> GraphQLError:
    return GraphQLError(
        f"This operation costs {cost:,} points, and there are {account.remaining:,} left of {account.limit:,}; "
        f"{account.restore_rate:,} come back in a second.",
        extensions={
            "code": RATE_LIMITED,
            RETRY_AFTER_MS: refusal.retry_after_ms,
            "cost": _shown_cost(cost, 0, account),
        },
    )


def _too_many_streams(maximum: int) -> GraphQLError:
    return GraphQLError(
        f"A key or session may have at most {maximum:,} open streams on one gateway: close some.",
        extensions={"code": RATE_LIMITED, RETRY_AFTER_MS: TOO_MANY_STREAMS_MS},
    )


def _settled(prepared: Prepared, account: Account, result: ExecutionResult) -> int:
    """What the operation came to. What it asked for beyond that is given back; errors give nothing back."""
    if result.data is None or result.errors:
        return prepared.cost
    actual = prepared.price.actual(result.data, prepared.variable_values.coerced)
    if actual < prepared.cost:
        account.charge(actual - prepared.cost)
    return actual


def _shown_cost(requested: int, actual: int, account: Account) -> dict[str, int]:
    return {
        "requested": requested,
        "actual": actual,
        "remaining": account.remaining,
        "limit": account.limit,
        "restoreRate": account.restore_rate,
    }


def _timed_out(seconds: float) -> GraphQLError:
    return GraphQLError(f"The operation took longer than {seconds:g} seconds.", extensions={"code": TIMEOUT})


def _dumps(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
