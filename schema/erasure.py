"""Erasing people, and giving out what is kept of them."""

from __future__ import annotations

from datetime import datetime

import strawberry

from engine import errors
from engine.erasure.erasing import MAX_REASON_CHARACTERS, Receipt
from engine.node_ids import NodeKind, write_node_id
from resolvers.erasure import Exported
from schema.errors import MutationPayload, user_errors
from schema.scalars import JSON, Cursor


@strawberry.input(description="Right to erasure: removes the person from every table in one transaction.")
class EraseProfileInput:
    user_id: str = strawberry.field(description="The host app's id of the person.")
    reason: str = strawberry.field(
        description=(
            f"Why, in 1 to {MAX_REASON_CHARACTERS} characters. Kept in the audit log, so it must not name the person."
        )
    )


@strawberry.type(description="What an erasure removed. Needs ADMIN.")
class ErasureReceipt:
    user_id: str = strawberry.field(description="As it was asked for; stored nowhere any more.")
    profile_id: strawberry.ID = strawberry.field(
        description="Node id of the profile that is gone, as in consent.erasure_completed."
    )
    erased_at: datetime = strawberry.field(description="When.")
    removed: JSON = strawberry.field(description='Rows removed, by kind of record: {"events": 120, "deliveries": 3}.')

    @staticmethod
    def of(receipt: Receipt) -> ErasureReceipt:
        return ErasureReceipt(
            user_id=receipt.user_id,
            profile_id=strawberry.ID(write_node_id(NodeKind.PROFILE, receipt.profile_id)),
            erased_at=receipt.erased_at,
            removed=JSON(receipt.removed),
        )


@strawberry.type(description="Of eraseProfile. Needs ADMIN.")
class EraseProfilePayload(MutationPayload):
    receipt: ErasureReceipt | None = strawberry.field(
        description="Null when nothing was erased. Of somebody who was erased before, the receipt of that time."
    )

    @staticmethod
    def of(receipt: Receipt | None, errors: tuple[errors.UserError, ...]) -> EraseProfilePayload:
        return EraseProfilePayload(
            receipt=None if receipt is None else ErasureReceipt.of(receipt), user_errors=user_errors(errors)
        )


@strawberry.type(description="A page of everything that is kept of a person. Needs ADMIN, or the person's own session.")
class ProfileExport:
    lines: str = strawberry.field(
        description=(
            'JSON lines, each ended by a line feed: {"kind": "event", "record": {…}}. Put pages behind one another as '
            "they are. Empty for somebody of whom nothing is kept."
        )
    )
    count: int = strawberry.field(description="Lines in this page.")
    end_cursor: Cursor | None = strawberry.field(description="What to send as after for the next page.")
    has_next_page: bool = strawberry.field(description="Whether there are more lines.")

    @staticmethod
    def of(exported: Exported) -> ProfileExport:
        return ProfileExport(
            lines=exported.lines,
            count=exported.count,
            end_cursor=None if exported.end_cursor is None else Cursor(exported.end_cursor),
            has_next_page=exported.has_next,
        )
