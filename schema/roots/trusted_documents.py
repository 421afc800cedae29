"""Root fields of trusted documents."""

from __future__ import annotations

from typing import Annotated

import strawberry

from resolvers import trusted_documents
from resolvers.paging import PageArguments
from schema.head_first import reading
from schema.info import Info
from schema.paging import After, First
from schema.send_payloads import DeletePayload
from schema.trusted_document import TrustedDocumentConnection, TrustedDocumentInput, TrustedDocumentsPayload


@strawberry.type
class TrustedDocumentsQuery:
    @strawberry.field(description="Documents that clients may name by their hash, by name. Needs VIEWER.")
    async def trusted_documents(
        self, info: Info, first: First = None, after: After = None
    ) -> TrustedDocumentConnection | None:
        ctx = await reading(info)
        page = await trusted_documents.list_trusted_documents(ctx, arguments=PageArguments(first, after))
        return TrustedDocumentConnection.of(page)


@strawberry.type
class TrustedDocumentsMutation:
    @strawberry.mutation(
        description=(
            "Register documents, all of them or none: then clients name them by hash, and where "
            "ProjectSettings.requireTrustedDocuments is on, nothing else runs. One that is there already takes its new "
            "name. Needs ADMIN."
        )
    )
    async def save_trusted_documents(
        self,
        info: Info,
        documents: Annotated[list[TrustedDocumentInput], strawberry.argument(description="1 to 100.")],
    ) -> TrustedDocumentsPayload | None:
        given = [each.given() for each in documents]
        return TrustedDocumentsPayload.of(*await trusted_documents.save_documents(info.context, given=given))

    @strawberry.mutation(
        description="Forget a trusted document. Gateways may go on finding it for ten seconds. Needs ADMIN."
    )
    async def delete_trusted_document(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="As in TrustedDocument.id.")],  # noqa: A002
    ) -> DeletePayload | None:
        return DeletePayload.of(*await trusted_documents.delete(info.context, document_id=id))
