"""The root field of the audit log."""

from __future__ import annotations

from typing import Annotated

import strawberry

from resolvers import audit
from resolvers.paging import PageArguments
from schema.audit_entry import AuditEntryConnection
from schema.head_first import reading
from schema.info import Info
from schema.paging import After, Before, First, Last


@strawberry.type
class AuditQuery:
    @strawberry.field(
        description=(
            "Every change of configuration, keys, workflows, endpoints and consent: who, what, before and after, "
            "newest first. Needs ADMIN."
        )
    )
    async def audit_log(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        subject: Annotated[
            str | None,
            strawberry.argument(description="Only of this: a node id, also of what is gone, or user:<userId>."),
        ] = None,
    ) -> AuditEntryConnection | None:
        ctx = await reading(info)
        page = await audit.list_audit_log(ctx, arguments=PageArguments(first, after, last, before), subject=subject)
        return AuditEntryConnection.of(page)
