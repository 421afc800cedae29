"""Trusted documents."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import strawberry

from db.trusted_documents import TrustedDocumentRecord
from engine.errors import UserError as EngineUserError
from engine.trusted_documents import GivenDocument, write_document_id
from resolvers.paging import Page
from schema.errors import MutationPayload, user_errors
from schema.paging import PageInfo, edges_of
from schema.scalars import Cursor


@strawberry.type(description="A document that clients may name instead of sending it. Needs VIEWER.")
class TrustedDocument:
    id: strawberry.ID = strawberry.field(
        description="What requests name it by, in documentId: sha256: and the hash of its text, in lower-case hex."
    )
    name: str = strawberry.field(description="For people; several documents may have the same.")
    document: str = strawberry.field(description="The text, as it was registered.")
    created_at: datetime = strawberry.field(description="When it was registered first.")

    @staticmethod
    def of(record: TrustedDocumentRecord) -> TrustedDocument:
        return TrustedDocument(
            id=strawberry.ID(write_document_id(record.document_hash)),
            name=record.name,
            document=record.document,
            created_at=record.created_at,
        )


@strawberry.type(description="A trusted document and its position in the list. Needs VIEWER.")
class TrustedDocumentEdge:
    cursor: Cursor = strawberry.field(description="Position in the list of trusted documents.")
    node: TrustedDocument = strawberry.field(description="The document.")


@strawberry.type(description="A page of trusted documents, by name. Needs VIEWER.")
class TrustedDocumentConnection:
    edges: list[TrustedDocumentEdge] = strawberry.field(description="Up to 100 documents.")
    page_info: PageInfo = strawberry.field(description="Where this page stands in the list.")

    @staticmethod
    def of(page: Page[TrustedDocumentRecord]) -> TrustedDocumentConnection:
        return TrustedDocumentConnection(
            edges=edges_of(page, TrustedDocumentEdge, TrustedDocument.of),
            page_info=PageInfo.of(page),
        )


@strawberry.input(description="A document to register.")
class TrustedDocumentInput:
    name: str = strawberry.field(description="1 to 200 characters, e.g. the name of its operation.")
    document: str = strawberry.field(
        description="The text, exactly as clients hash it. It has to be valid, and within the limits of a request."
    )

    def given(self) -> GivenDocument:
        return GivenDocument(name=self.name, document=self.document)


@strawberry.type(description="Outcome of saveTrustedDocuments. Needs ADMIN.")
class TrustedDocumentsPayload(MutationPayload):
    trusted_documents: list[TrustedDocument] = strawberry.field(
        description="What was given, each once, in that order; empty when nothing was changed."
    )

    @staticmethod
    def of(records: Sequence[TrustedDocumentRecord], errors: tuple[EngineUserError, ...]) -> TrustedDocumentsPayload:
        return TrustedDocumentsPayload(
            trusted_documents=[TrustedDocument.of(record) for record in records], user_errors=user_errors(errors)
        )
