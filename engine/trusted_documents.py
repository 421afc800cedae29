"""Trusted documents: the GraphQL documents that a project's own clients run, registered before they run them.

Guarantees: only what would run is kept, all of a save or nothing of it; a document is named by the hash of its text, so
what a name stands for never changes; where a project says so, nothing else runs. A new document is found by every
gateway at once, one that was deleted by no gateway after `MAX_AGE`. Leaves to others: whether a document is valid (what
knows is handed in), who may register, and reading what a project has said.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.trusted_documents import (
    NewTrustedDocument,
    TrustedDocumentRecord,
    count_trusted_documents,
    lock_trusted_documents,
    read_trusted_document,
    save_trusted_documents,
)
from db.trusted_documents import delete_trusted_document as remove_document
from engine.audit import Audit
from engine.errors import UserError
from engine.project_settings import ProjectSettingsCache
from engine.transactions import run_transaction

if TYPE_CHECKING:
    import asyncpg

    from db.database import Database

MAX_DOCUMENTS = 5_000
"""Of one project: those of some clients, in the versions that are still installed."""
MAX_AT_ONCE = 100
"""In one save. A client with more sends several."""
MAX_NAME_CHARACTERS = 200
"""Fits a path with the name of an operation."""
MAX_COMPLAINTS = 20
"""Said about one save: what is wrong with many is wrong with each in the same way."""
MAX_AGE = timedelta(seconds=10)
"""How long a gateway goes on finding a document that was deleted."""
CACHED_BYTES = 16 * 1024 * 1024
"""Of the texts that a gateway keeps: some ten thousand ordinary ones."""
LOOK_UPS_AT_ONCE = 2
"""A flood of made-up hashes, which cost nothing, gets these connections of the pool, and no more."""
PREFIX = "sha256:"
"""Of a document's id (GraphQL over HTTP, appendix A)."""

NOT_FOUND = "This project has no such trusted document."

Complaints = Callable[[str], Sequence[str]]
"""What keeps a document from being run, each a sentence."""
Outcome = tuple[Sequence[TrustedDocumentRecord], tuple[UserError, ...]]


class GivenDocument(msgspec.Struct, frozen=True):
    """A document as it came."""

    name: str
    document: str


class TrustedDocuments:
    """For one gateway: finds documents, and remembers them for a while."""

    def __init__(
        self, database: Database, settings: ProjectSettingsCache, *, clock: Callable[[], float] = monotonic
    ) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._known: OrderedDict[tuple[UUID, bytes], tuple[float, str]] = OrderedDict()
        self._used = 0
        self._look_ups = asyncio.Semaphore(LOOK_UPS_AT_ONCE)

    async def find(self, project_id: UUID, document_hash: bytes) -> str | None:
        """The text of a document."""
        key = (project_id, document_hash)
        known = self._known.get(key)
        if known is not None:
            if self._clock() - known[0] <= MAX_AGE.total_seconds():
                self._known.move_to_end(key)
                return known[1]
            self._forget(key)
        asked_at = self._clock()
        async with self._look_ups, self._database.connection() as connection:
            found = await read_trusted_document(connection, project_id=project_id, document_hash=document_hash)
        if found is not None:
            self._remember(key, asked_at, found)
        return found

    async def admits(self, project_id: UUID, document: str) -> bool:
        """Whether a project runs this text: always, until it says that it runs trusted documents only."""
        if not (await self._settings.read(project_id)).require_trusted_documents:
            return True
        return await self.find(project_id, hash_document(document)) is not None

    def forget(self, project_id: UUID, document_hash: bytes) -> None:
        """A document was deleted."""
        self._forget((project_id, document_hash))

    def _remember(self, key: tuple[UUID, bytes], asked_at: float, text: str) -> None:
        self._forget(key)
        self._known[key] = (asked_at, text)
        self._used += len(text.encode())
        while self._used > CACHED_BYTES:
            self._forget(next(iter(self._known)))

    def _forget(self, key: tuple[UUID, bytes]) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            self._used -= len(known[1].encode())


def hash_document(document: str) -> bytes:
    """SHA-256 of the text in UTF-8."""
    return hashlib.sha256(document.encode()).digest()


def write_document_id(document_hash: bytes) -> str:
    """What requests name a document by."""
    return PREFIX + document_hash.hex()


def parse_document_id(text: str) -> bytes | None:
    """None for anything that `write_document_id` does not give."""
    try:
        document_hash = bytes.fromhex(text.removeprefix(PREFIX))
    except ValueError:
        return None
    return document_hash if len(document_hash) == 32 and write_document_id(document_hash) == text else None


async def save_documents(
    database: Database, *, project_id: UUID, given: Sequence[GivenDocument], complaints: Complaints, audit: Audit
) -> Outcome:
    """Keep documents; those that are there already only take their new name. In the order in which they were given."""
    errors = check_documents(given, complaints)
    if errors:
        return (), errors
    new = {hash_document(each.document): each for each in given}
    documents = [NewTrustedDocument(key, each.name, each.document) for key, each in new.items()]

    async def action(connection: asyncpg.Connection) -> Outcome:
        held = await lock_trusted_documents(connection, project_id=project_id, document_hashes=list(new))
        counted = await count_trusted_documents(connection, project_id=project_id)
        if counted - len(held) + len(new) > MAX_DOCUMENTS:
            sentence = f"A project has at most {MAX_DOCUMENTS} trusted documents: delete those that no client runs."
            return (), (UserError(sentence, "LIMIT_EXCEEDED", ("documents",)),)
        saved = await save_trusted_documents(connection, project_id=project_id, documents=documents, now=audit.now)
        before = {each.document_hash: each for each in held}
        for each in saved:
            await _note(connection, audit, before.get(each.document_hash), each)
        by_hash = {each.document_hash: each for each in saved}
        return [by_hash[document_hash] for document_hash in new], ()

    return await run_transaction(database, action)


async def delete_document(
    database: Database, *, project_id: UUID, document_hash: bytes, audit: Audit
) -> tuple[UserError, ...]:
    """Forget a document; why it was not."""
    asked_before = False

    async def action(connection: asyncpg.Connection) -> tuple[UserError, ...]:
        nonlocal asked_before
        deleted = await remove_document(connection, project_id=project_id, document_hash=document_hash)
        if deleted is not None:
            await _note(connection, audit, deleted, None)
        elif not asked_before:  # after a COMMIT whose answer was lost it is gone because of this very call
            return (UserError(NOT_FOUND, "NOT_FOUND", ("id",)),)
        asked_before = True
        return ()

    return await run_transaction(database, action)


def check_documents(given: Sequence[GivenDocument], complaints: Complaints) -> tuple[UserError, ...]:
    """What is wrong with a save, up to `MAX_COMPLAINTS` of it. Pure, as far as `complaints` is."""
    if not 1 <= len(given) <= MAX_AT_ONCE:
        return (UserError(f"Save 1 to {MAX_AT_ONCE} documents at once.", "LIMIT_EXCEEDED", ("documents",)),)
    errors: list[UserError] = []
    for index, each in enumerate(given):
        path = ("documents", str(index))
        if not 1 <= len(each.name.strip()) <= MAX_NAME_CHARACTERS:
            errors.append(UserError(f"A name has 1 to {MAX_NAME_CHARACTERS} characters.", "INVALID", (*path, "name")))
        elif "\0" in each.name:
            errors.append(UserError("A name cannot hold a NUL character.", "INVALID", (*path, "name")))
        if "\0" in each.document:
            errors.append(UserError("A document cannot hold a NUL character.", "INVALID", (*path, "document")))
        else:
            found = complaints(each.document)
            errors += [UserError(sentence, "INVALID", (*path, "document")) for sentence in found]
        if len(errors) >= MAX_COMPLAINTS:
            break
    return tuple(errors[:MAX_COMPLAINTS])


async def _note(
    connection: asyncpg.Connection,
    audit: Audit,
    before: TrustedDocumentRecord | None,
    after: TrustedDocumentRecord | None,
) -> None:
    record = after or before
    if record is None:
        return
    done = "created" if before is None else "deleted" if after is None else "updated"
    await audit.note(
        connection,
        f"trusted_document.{done}",
        write_document_id(record.document_hash),
        project_id=record.project_id,
        before=None if before is None else _shown(before),
        after=None if after is None else _shown(after),
    )


def _shown(record: TrustedDocumentRecord) -> dict[str, str]:
    """A document as the audit log has it."""
    return {"name": record.name, "document": record.document}
