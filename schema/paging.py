"""Relay's connections: arguments and page info, the same for every list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Generic, Protocol, TypeAlias, TypeVar

import strawberry

from resolvers.paging import MAX_PAGE, Counter, Page
from schema.scalars import Cursor

First: TypeAlias = Annotated[
    int | None,
    strawberry.argument(description=f"How many from the start, 1 to {MAX_PAGE}; by default 20, more gives {MAX_PAGE}."),
]
After: TypeAlias = Annotated[
    Cursor | None, strawberry.argument(description="Only what comes after this position of the same list.")
]
Last: TypeAlias = Annotated[
    int | None,
    strawberry.argument(description=f"Instead of first: how many from the end, 1 to {MAX_PAGE}."),
]
Before: TypeAlias = Annotated[
    Cursor | None, strawberry.argument(description="Only what comes before this position of the same list.")
]

R = TypeVar("R")
Node = TypeVar("Node")
NodeTaken = TypeVar("NodeTaken", contravariant=True)
Edge = TypeVar("Edge")
EdgeMade = TypeVar("EdgeMade", covariant=True)


@strawberry.type(description="Where a page stands in its list. Whoever sees the list sees it.")
class PageInfo:
    has_next_page: bool = strawberry.field(description="Whether there is more after endCursor.")
    has_previous_page: bool = strawberry.field(description="Whether there is more before startCursor.")
    start_cursor: Cursor | None = strawberry.field(description="Position of the first item; null on an empty page.")
    end_cursor: Cursor | None = strawberry.field(description="Position of the last item; null on an empty page.")

    @staticmethod
    def of(page: Page[Any]) -> PageInfo:
        cursors = page.cursors
        return PageInfo(
            has_next_page=page.has_next,
            has_previous_page=page.has_previous,
            start_cursor=Cursor(cursors[0]) if cursors else None,
            end_cursor=Cursor(cursors[-1]) if cursors else None,
        )


@strawberry.type
class CountedConnection(Generic[Edge]):
    """A page of a list that can be counted. Each connection says what its own edges are."""

    edges: list[Edge]
    page_info: PageInfo = strawberry.field(description="Where this page stands in the list.")
    counter: strawberry.Private[Counter]

    @strawberry.field(
        description="How many there are in all. Counted only when asked for; at most 10,000, see totalCountIsCapped."
    )
    async def total_count(self) -> int:
        return (await self.counter.count()).total

    @strawberry.field(description="Whether there are more than totalCount says.")
    async def total_count_is_capped(self) -> bool:
        return (await self.counter.count()).is_capped


class EdgeMaker(Protocol[NodeTaken, EdgeMade]):
    """A type of edge, as it is called to make one."""

    def __call__(self, *, cursor: Cursor, node: NodeTaken) -> EdgeMade: ...


def edges_of(page: Page[R], make_edge: EdgeMaker[Node, Edge], make_node: Callable[[R], Node]) -> list[Edge]:
    """A page's records as nodes at their positions."""
    return [
        make_edge(cursor=Cursor(cursor), node=make_node(record))
        for record, cursor in zip(page.records, page.cursors, strict=True)
    ]
