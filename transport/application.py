"""What the transport is handed, and what it hands back: the whole boundary between the wire and the product.

The product implements `Application`, `Session` and `LiveSource`; the transport implements `Rendering` and `Sink`.
Neither imports the other, so these protocols are the only place where the two are described together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from graphql import GraphQLSchema

from transport.execution.weights import PerItem, Weights

__all__ = [
    "Account",
    "Application",
    "InputDecoder",
    "LiveSource",
    "Membership",
    "PerItem",
    "PublicError",
    "Refusal",
    "Rendering",
    "Session",
    "Sink",
    "Weights",
]


class InputDecoder(Protocol):
    """A compiled decoder for one GraphQL input type, from raw JSON to the value that its resolver takes.

    Must accept only what ordinary coercion accepts, and give the same value. Raises `ValueError` for anything it does
    not like: the transport then takes the ordinary path, which words the error.
    """

    def __call__(self, raw: bytes, /) -> object: ...


class PublicError(NamedTuple):
    """What the client reads of an error. `extensions` holds at least `code`."""

    message: str
    extensions: Mapping[str, Any]


class Refusal(Protocol):
    """There are not enough points left."""

    @property
    def retry_after_ms(self) -> int:
        """After which there are, if nobody takes them first."""


class Account(Protocol):
    """What the operations of one holder are charged to. Nothing here fails."""

    @property
    def limit(self) -> int:
        """Points of a full bucket."""

    @property
    def remaining(self) -> int:
        """Points left now; 0 where there is a debt."""

    @property
    def restore_rate(self) -> int:
        """Points that come back in a second."""

    def take(self, points: int, /) -> Refusal | Awaitable[Refusal | None] | None:
        """Take so many points, or say that there are too few. Nearly always at once."""

    def charge(self, points: float, /) -> None:
        """Take so many points in any case, as a debt if need be. Fewer than none are given back."""


class Session(Protocol):
    """Who speaks on a connection. An HTTP request has one of its own; a WebSocket keeps its first all its life."""

    @property
    def holder(self) -> Hashable | None:
        """Whose credentials were accepted: equal for equal ones, and None without any. What is bounded counts by it."""

    @property
    def account(self) -> Account | None:
        """What this session's operations are charged to. None for a session that is not."""

    @property
    def may_inspect(self) -> bool:
        """Whether it may ask for the schema, and is told what a wrong name was meant to be."""

    async def trusted_document(self, digest: str) -> str | None:
        """The text with this SHA-256 (hex, lower case), where those who may have registered it."""

    async def may_run(self, document: str) -> bool:
        """Whether this text may be run: where only trusted documents may, whether it is one."""

    def context(self, cost: int = 0) -> object:
        """A fresh context value (loaders included) for an operation that costs so many points, or a streamed item."""

    def on_revoked(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call `callback(reason)` once, when the credentials stop being valid. Returns the function that forgets it."""


class Application(Protocol):
    """The product, as far as the transport may see it."""

    schema: GraphQLSchema
    decoders: Mapping[str, InputDecoder]
    """By name of GraphQL input type."""
    weights: Weights
    """What its fields cost."""

    async def open_session(
        self, headers: Mapping[str, str], payload: Mapping[str, Any] | None, *, client: str | None
    ) -> Session:
        """Authenticate. `headers` have lower-case names; `payload` comes with `connection_init`; `client` is its IP.

        No credentials at all give an anonymous session: fields then refuse on their own. Wrong ones raise an exception
        for which `describe_error` gives the code UNAUTHENTICATED.
        """

    def describe_error(self, error: BaseException) -> PublicError | None:
        """What the client may read of an error that a resolver or `open_session` raised.

        None for what is nobody's business: the transport then masks it as INTERNAL and logs it under an id.
        """


class Rendering(Protocol):
    """One prepared subscription document with the variables that its selection set reads.

    Equal keys give equal bytes for the same item and the same `LiveSource.audience`. Calling it executes the document
    for one item and gives the JSON of the GraphQL response (`{"data":…}`): at once where nothing in it had to wait.
    What is away for a moment (errors with `retryAfterMs`) is waited for.
    """

    key: Hashable

    def __call__(self, payload: object, /) -> bytes | Awaitable[bytes]: ...

    def is_whole(self, response: bytes, /) -> bool:
        """Whether a response holds no errors: one that does may come out better another time."""


class Sink(Protocol):
    """One subscriber's way out. Never blocks and never raises, also after the client has gone."""

    def deliver(self, payload: bytes, cursor: str) -> bool:
        """Write one response. False: it was taken, but the buffer is past its bound, so await `drained` before more."""

    async def drained(self) -> None:
        """Returns once the buffer has fallen below its low-water mark, or the client has gone."""

    def announce(self, cursor: str) -> None:
        """Tell the client its position although there is no item for it."""

    def fail(self, error: BaseException) -> None:
        """End this subscription with an error. Nothing may follow."""

    def complete(self) -> None:
        """End this subscription. Nothing may follow."""


class Membership(Protocol):
    """One subscriber of a live source."""

    @property
    def cursor(self) -> str:
        """The position of this subscriber now: everything up to it has been handed to its sink or was not for it."""

    @property
    def delivered(self) -> int:
        """How many items have been handed to its sink, or were while it was attached."""

    def leave(self) -> None:
        """Stop. Safe to call at any time and more than once; the sink is not touched afterwards."""


@runtime_checkable
class LiveSource(Protocol):
    """What a subscribe resolver returns for a stream whose work is shared between subscribers.

    `audience` is everything besides the document that decides what a subscriber sees: project, role, grants, user.
    Any other async iterable that a resolver returns is executed item by item for its one subscriber.
    """

    audience: Hashable

    async def join(self, rendering: Rendering, sink: Sink, *, after: str | None = None) -> Membership:
        """Replay what lies past the cursor, then follow. `after` overrides the field's own argument (`Last-Event-ID`).

        Raises (before anything is delivered) what `Application.describe_error` describes, e.g. CURSOR_INVALID.
        Announces the starting position at once.
        """

    def __aiter__(self) -> AsyncIterator[Any]:
        """Only so that graphql-core takes this for a source stream; it raises `TypeError`."""
