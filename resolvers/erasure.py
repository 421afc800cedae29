"""Erasing people, and giving out what is kept of them."""

from __future__ import annotations

import msgspec

from engine.cursors import Cursor, CursorKind
from engine.erasure.erasing import ErasureRequest, Receipt, check_request, erase_person
from engine.erasure.exporting import MAX_PAGE, ExportPosition, export_person, is_position
from engine.errors import BadUserInput, CursorInvalid, UserError
from engine.identity import Role
from resolvers.context import Context
from resolvers.filters import check_text
from resolvers.permissions import is_own, require

DEFAULT_PAGE = 100


class Exported(msgspec.Struct, frozen=True):
    """A page of an export: JSON lines, how many, and where to go on."""

    lines: str
    count: int
    end_cursor: str | None
    has_next: bool


async def erase_profile(ctx: Context, *, user_id: str, reason: str) -> tuple[Receipt | None, tuple[UserError, ...]]:
    """Erase a person from everything, for good."""
    viewer = require(ctx, Role.ADMIN)
    services = ctx.services
    request = ErasureRequest(user_id=user_id, reason=reason, actor=viewer.actor)
    errors = check_request(request)
    if errors:
        return None, errors
    done = await erase_person(
        services.database,
        services.announce,
        project_id=viewer.project_id,
        request=request,
        now=services.clock.now(),
    )
    ctx.forget_reads()
    return (None, (done,)) if isinstance(done, UserError) else (done, ())


async def export_profile(ctx: Context, *, user_id: str, first: int | None, after: str | None) -> Exported:
    """A page of everything that is kept of a person."""
    viewer = require(ctx, Role.INGEST)
    if not is_own(viewer, user_id):
        require(ctx, Role.ADMIN)
    check_text(user_id, "userId")
    limit = DEFAULT_PAGE if first is None else first
    if limit < 1:
        raise BadUserInput(f"first is 1 to {MAX_PAGE}.")
    codec, project_id = ctx.services.cursors, viewer.project_id
    position = None
    if after is not None:
        kind, *key = codec.decode(after, project_id=project_id, kinds=frozenset({CursorKind.EXPORT})).key
        if not is_position(str(kind), key):
            raise CursorInvalid("This cursor is of an export before a change of what is exported: start again.")
        position = ExportPosition(str(kind), tuple(map(str, key)))
    async with ctx.reading(project_id) as connection:
        page = await export_person(connection, viewer.project, user_id, after=position, first=min(limit, MAX_PAGE))
    end = page.end
    cursor = None if end is None else Cursor(CursorKind.EXPORT, project_id, 0, (end.kind, *end.key))
    return Exported(page.lines, page.count, None if cursor is None else codec.encode(cursor), page.has_next)
