"""Relay's connections: arguments and page info, the same for every list."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import strawberry

from resolvers.paging import MAX_PAGE, Page
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

TOTAL_COUNT = "How many there are in all. Counted only when asked for; at most 10,000, see totalCountIsCapped."
TOTAL_IS_CAPPED = "Whether there are more than totalCount says."


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
