"""Bundles: workflows and audiences out of a project as one document, and into another.

Guarantees of an export: it is of one moment; what was exported can be imported into every project that has the
templates it names, and exported again gives the same bytes. Guarantees of an import: one transaction, so that all of it
takes effect or nothing, and each change is noted in the audit log; things are the same by their names, so that
importing again changes nothing; what a bundle does not hold is left alone. A workflow is on or off as the bundle says,
and stays as it is (a new one off) where it says nothing; whether one is paused is no part of it. A COMMIT whose answer
was lost is tried again and finds what it did. Leaves to others: who may, and what a bundle looks like
(`engine.workflows.bundle_format`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from db.audiences import (
    AudienceRecord,
    count_audiences,
    find_audience_names,
    hold_audiences,
    insert_audience,
    lock_audience,
    read_all_audiences,
    read_audiences,
    update_audience,
)
from db.templates import find_email_templates, read_templates
from db.workflow_records import WorkflowRecord
from db.workflows import find_workflow_names, list_workflows, read_workflows
from engine.audiences.conditions import conditions_of, encode_conditions
from engine.audiences.saving import MAX_AUDIENCES, note_audience
from engine.audit import Audit
from engine.conditions import unparse_conditions
from engine.egress import Egress
from engine.errors import BadUserInput, NotFound, UserError
from engine.node_ids import NodeKind, write_node_id
from engine.transactions import run_transaction
from engine.workflows.bundle_format import (
    MAX_BUNDLE_BYTES,
    MAX_BUNDLE_DEPTH,
    MAX_WORKFLOWS,
    Bundle,
    BundleAudience,
    BundleWorkflow,
    depth_of,
    read_bundle,
    resolve,
    symbols_in,
    write_audience,
    write_bundle,
    write_workflow,
)
from engine.workflows.definition import Definition
from engine.workflows.fields import quote
from engine.workflows.saving import Draft, Refused, Saved, SaveOutcome, is_equal, new_draft, save_in
from engine.workflows.stored import decode_definition
from engine.workflows.validation import Changes, named_nodes

if TYPE_CHECKING:
    import asyncpg

    from db.database import Database

PAGE_WORKFLOWS = 200
"""Read at once."""
MAX_STORED_BYTES = 4 * MAX_BUNDLE_BYTES
"""Of the definitions of an export, as they are stored: several times of what they are without what is absent."""

_WORDS = {NodeKind.TEMPLATE: "template for email", NodeKind.AUDIENCE: "audience"}
_GONE = "(deleted)"
"""In the place of a name, where nobody has to be able to import it."""
_IN_PARTS = "Export them in parts, with ids."


class SavedAudience(msgspec.Struct, frozen=True):
    """An audience as it is now, and what the import came to for it."""

    audience: AudienceRecord
    outcome: SaveOutcome


class Imported(msgspec.Struct, frozen=True):
    """What became of an import; or why nothing was changed. `before` and `after` are bundles of what it is about: as
    the project had it, and as it has it now."""

    workflows: tuple[Saved, ...] = ()
    audiences: tuple[SavedAudience, ...] = ()
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    errors: tuple[UserError, ...] = ()


class _Stored(msgspec.Struct, frozen=True):
    """What is written of a project: workflows, audiences, and the names of what the workflows name."""

    workflows: Sequence[WorkflowRecord]
    audiences: Sequence[AudienceRecord]
    names: Mapping[UUID, str]


class _Tried(Exception):
    """Ends the transaction of an import that is only tried."""

    def __init__(self, imported: Imported) -> None:
        super().__init__("only tried")
        self.imported = imported


async def export_bundle(
    connection: asyncpg.Connection, *, project_id: UUID, workflow_ids: Sequence[UUID] | None, schema_url: str
) -> dict[str, Any]:
    """Some workflows with the audiences that they name; all workflows and all audiences when `workflow_ids` is None.

    Raises `NotFound` for an unknown workflow, and `BadUserInput` for what could not be imported again.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        stored = await _read_stored(connection, project_id, workflow_ids)
    return await asyncio.to_thread(_write_export, stored, schema_url)


async def import_bundle(
    database: Database,
    *,
    project_id: UUID,
    given: Any,
    egress: Egress,
    schema_url: str,
    audit: Audit,
    is_dry_run: bool = False,
) -> Imported:
    """Make what a bundle holds so. A dry run says what would come of it, and changes nothing."""
    bundle, errors = await asyncio.to_thread(partial(read_bundle, given, egress=egress))
    if bundle is None:
        return Imported(errors=errors)
    importing = _Import(project_id, bundle, schema_url, audit)

    async def action(connection: asyncpg.Connection) -> Imported:
        imported = await importing.carry_out(connection)
        if is_dry_run:
            raise _Tried(imported)
        return imported

    try:
        return await run_transaction(database, action)
    except _Tried as tried:
        return tried.imported
    except Refused as refused:
        return Imported(errors=refused.errors)


class _Import:
    """One bundle, going into one project; tried again with what was found out before."""

    def __init__(self, project_id: UUID, bundle: Bundle, schema_url: str, audit: Audit) -> None:
        self._project_id = project_id
        self._bundle = bundle
        self._schema_url = schema_url
        self._audit = audit
        self._before: Mapping[str, Any] | None = None
        self._outcomes: dict[tuple[NodeKind, str], SaveOutcome] = {}

    async def carry_out(self, connection: asyncpg.Connection) -> Imported:
        """In the caller's transaction. Raises `Refused`: then roll back."""
        await hold_audiences(connection, project_id=self._project_id)
        before = await self._read_before(connection)
        if self._before is None:
            self._before = await asyncio.to_thread(self._write_before, before)
        audiences = await self._save_audiences(connection, before.audiences)
        ids = await self._resolve_names(connection)
        workflows = await self._save_workflows(connection, before.workflows, ids)
        return Imported(workflows, audiences, self._before, await asyncio.to_thread(self._write_after, workflows))

    async def _read_before(self, connection: asyncpg.Connection) -> _Stored:
        """What the project has under the names of the bundle."""
        names = [each.definition.name for each in self._bundle.workflows]
        ids = await find_workflow_names(connection, project_id=self._project_id, names=names)
        workflows = await read_workflows(connection, project_id=self._project_id, workflow_ids=list(ids.values()))
        names = [each.name for each in self._bundle.audiences]
        ids = await find_audience_names(connection, project_id=self._project_id, names=names)
        audiences = await read_audiences(connection, project_id=self._project_id, audience_ids=list(ids.values()))
        return _Stored(workflows, audiences, await _read_names(connection, self._project_id, workflows))

    def _write_before(self, before: _Stored) -> dict[str, Any]:
        return write_bundle(
            self._schema_url,
            [_write_audience(each) for each in before.audiences],
            [
                write_workflow(
                    decode_definition(each.definition),
                    is_active=each.is_active,
                    name_of=lambda _kind, uuid: before.names.get(uuid, _GONE),
                )
                for each in before.workflows
            ],
        )

    def _write_after(self, workflows: Sequence[Saved]) -> dict[str, Any]:
        active = {each.workflow.name: each.workflow.is_active for each in workflows}
        return write_bundle(
            self._schema_url,
            [write_audience(each.name, each.conditions) for each in self._bundle.audiences],
            [
                write_workflow(
                    each.definition,
                    is_active=active[each.definition.name],
                    name_of=lambda _kind, symbol: self._bundle.names[symbol][1],
                )
                for each in self._bundle.workflows
            ],
        )

    async def _save_audiences(
        self, connection: asyncpg.Connection, before: Sequence[AudienceRecord]
    ) -> tuple[SavedAudience, ...]:
        held = {each.name: each for each in before}
        made = [each for each in self._bundle.audiences if each.name not in held]
        count = await count_audiences(connection, project_id=self._project_id) if made else 0
        if count + len(made) > MAX_AUDIENCES:
            message = f"A project has at most {MAX_AUDIENCES} audiences, and this would make {count + len(made)}."
            raise Refused(UserError(message, "LIMIT_EXCEEDED", made[0].path))
        saved = [await self._save_audience(connection, each, held.get(each.name)) for each in self._bundle.audiences]
        return tuple(
            SavedAudience(record, self._outcome(NodeKind.AUDIENCE, record.name, outcome)) for record, outcome in saved
        )

    async def _save_audience(
        self, connection: asyncpg.Connection, given: BundleAudience, held: AudienceRecord | None
    ) -> tuple[AudienceRecord, SaveOutcome]:
        if held is not None:
            # It may have been deleted meanwhile: nothing but a row's lock is in the way of that.
            held = await lock_audience(connection, project_id=self._project_id, audience_id=held.audience_id)
        if held is not None and _is_same(given, held):
            return held, SaveOutcome.UNCHANGED
        save, outcome = (
            (insert_audience, SaveOutcome.CREATED) if held is None else (update_audience, SaveOutcome.UPDATED)
        )
        record = await save(
            connection,
            project_id=self._project_id,
            audience_id=uuid7() if held is None else held.audience_id,
            name=given.name,
            conditions=encode_conditions(given.conditions),
            now=self._audit.now,
        )
        await note_audience(connection, self._audit, before=held, after=record)
        return record, outcome

    async def _resolve_names(self, connection: asyncpg.Connection) -> dict[UUID, UUID]:
        """The project's ids for the symbols of the bundle. Raises `Refused` for names that it does not have."""
        wanted: dict[NodeKind, list[str]] = {NodeKind.TEMPLATE: [], NodeKind.AUDIENCE: []}
        for kind, name in self._bundle.names.values():
            wanted[kind].append(name)
        there = {
            NodeKind.TEMPLATE: await find_email_templates(
                connection, project_id=self._project_id, names=wanted[NodeKind.TEMPLATE]
            ),
            NodeKind.AUDIENCE: await find_audience_names(
                connection, project_id=self._project_id, names=wanted[NodeKind.AUDIENCE]
            ),
        }
        ids = {symbol: there[kind][name] for symbol, (kind, name) in self._bundle.names.items() if name in there[kind]}
        errors = [self._unknown(workflow, ids) for workflow in self._bundle.workflows]
        if any(errors):
            raise Refused(*(error for found in errors for error in found))
        return ids

    def _unknown(self, workflow: BundleWorkflow, ids: Mapping[UUID, UUID]) -> list[UserError]:
        named = [(self._bundle.names[symbol], path) for symbol, path in symbols_in(workflow) if symbol not in ids]
        return [
            UserError(f"This project has no {_WORDS[kind]} named {quote(name)}.", "NOT_FOUND", path)
            for (kind, name), path in named
        ]

    async def _save_workflows(
        self, connection: asyncpg.Connection, before: Sequence[WorkflowRecord], ids: Mapping[UUID, UUID]
    ) -> tuple[Saved, ...]:
        saved = []
        for each in await asyncio.to_thread(self._compare, before, ids):
            one = each
            if isinstance(one, Draft):
                one = await save_in(connection, project_id=self._project_id, draft=one, audit=self._audit)
            outcome = self._outcome(NodeKind.WORKFLOW, one.workflow.name, one.outcome)
            saved.append(msgspec.structs.replace(one, outcome=outcome))
        return tuple(saved)

    def _compare(self, before: Sequence[WorkflowRecord], ids: Mapping[UUID, UUID]) -> list[Draft | Saved]:
        """What is to be saved, or need not be: most of a bundle that is imported often."""
        held = {each.name: each for each in before}
        return [
            _draft(each, resolve(each.definition, ids), held.get(each.definition.name))
            for each in self._bundle.workflows
        ]

    def _outcome(self, kind: NodeKind, name: str, outcome: SaveOutcome) -> SaveOutcome:
        """What the first try came to, where the last one finds that nothing is left to do."""
        if outcome is not SaveOutcome.UNCHANGED:
            self._outcomes[kind, name] = outcome
        return self._outcomes.get((kind, name), SaveOutcome.UNCHANGED)


def _draft(given: BundleWorkflow, definition: Definition, held: WorkflowRecord | None) -> Draft | Saved:
    if held is None:
        return new_draft(definition, is_active=given.is_active is True, path=given.path)
    is_active = held.is_active if given.is_active is None else given.is_active
    if is_active == held.is_active and is_equal(definition, decode_definition(held.definition)):
        return Saved(held, SaveOutcome.UNCHANGED)
    return Draft(
        workflow_id=held.workflow_id,
        is_new=False,
        changes=Changes(definition.name, definition.description, definition.trigger, definition.steps),
        is_active=is_active,
        path=given.path,
    )


def _is_same(given: BundleAudience, held: AudienceRecord) -> bool:
    """1 is not true, as it is to Python; the order of members does not matter."""
    one, other = (unparse_conditions(conditions) for conditions in (given.conditions, conditions_of(held)))
    return msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")


async def _read_stored(
    connection: asyncpg.Connection, project_id: UUID, workflow_ids: Sequence[UUID] | None
) -> _Stored:
    if workflow_ids is None:
        workflows = await _read_all(connection, project_id)
        audiences = await read_all_audiences(connection, project_id=project_id)
        return _Stored(workflows, audiences, await _read_names(connection, project_id, workflows))
    workflows = await _read_some(connection, project_id, workflow_ids)
    audience_ids = [uuid for kind, uuid in await _named_by(workflows) if kind is NodeKind.AUDIENCE]
    audiences = await read_audiences(connection, project_id=project_id, audience_ids=audience_ids)
    return _Stored(workflows, audiences, await _read_names(connection, project_id, workflows))


async def _read_all(connection: asyncpg.Connection, project_id: UUID) -> list[WorkflowRecord]:
    found: list[WorkflowRecord] = []
    while True:
        after = found[-1].workflow_id if found else None
        page = await list_workflows(connection, project_id=project_id, after=after, limit=PAGE_WORKFLOWS)
        found += page
        if len(found) > MAX_WORKFLOWS:
            raise BadUserInput(f"The project has more than {MAX_WORKFLOWS:,} workflows. {_IN_PARTS}", path=("ids",))
        _check_size(sum(len(each.definition) for each in found), MAX_STORED_BYTES)
        if len(page) < PAGE_WORKFLOWS:
            return found


async def _read_some(
    connection: asyncpg.Connection, project_id: UUID, workflow_ids: Sequence[UUID]
) -> list[WorkflowRecord]:
    if len(workflow_ids) > MAX_WORKFLOWS:
        raise BadUserInput(f"A bundle has at most {MAX_WORKFLOWS:,} workflows.", path=("ids",))
    wanted = list(dict.fromkeys(workflow_ids))
    read = await read_workflows(connection, project_id=project_id, workflow_ids=wanted)
    found = {each.workflow_id: each for each in read if each.deleted_at is None}
    for workflow_id in wanted:
        if workflow_id not in found:
            raise NotFound(f"This project has no workflow {write_node_id(NodeKind.WORKFLOW, workflow_id)}.")
    _check_size(sum(len(each.definition) for each in read), MAX_STORED_BYTES)
    return list(found.values())


def _check_size(size: int, most: int) -> None:
    if size > most:
        message = f"The workflows take more than {MAX_BUNDLE_BYTES:,} bytes as a bundle, which no request could bring."
        raise BadUserInput(f"{message} {_IN_PARTS}", path=("ids",))


async def _named_by(workflows: Sequence[WorkflowRecord]) -> set[tuple[NodeKind, UUID]]:
    """Every template and audience that some workflows name."""

    def read() -> set[tuple[NodeKind, UUID]]:
        definitions = (decode_definition(each.definition) for each in workflows)
        return {(kind, uuid) for each in definitions for kind, uuid, _ in named_nodes(each)}

    return await asyncio.to_thread(read)


async def _read_names(
    connection: asyncpg.Connection, project_id: UUID, workflows: Sequence[WorkflowRecord]
) -> dict[UUID, str]:
    """The names of the templates and audiences that workflows name; of what was deleted there is none."""
    named = await _named_by(workflows)
    templates = await read_templates(
        connection,
        project_id=project_id,
        template_ids=[uuid for kind, uuid in named if kind is NodeKind.TEMPLATE],
    )
    audiences = await read_audiences(
        connection,
        project_id=project_id,
        audience_ids=[uuid for kind, uuid in named if kind is NodeKind.AUDIENCE],
    )
    return {
        **{each.template_id: each.name for each in templates},
        **{each.audience_id: each.name for each in audiences},
    }


def _write_audience(record: AudienceRecord) -> dict[str, Any]:
    return write_audience(record.name, conditions_of(record))


def _write_export(stored: _Stored, schema_url: str) -> dict[str, Any]:
    workflows = [_write_stored(each, stored.names) for each in stored.workflows]
    bundle = write_bundle(schema_url, [_write_audience(each) for each in stored.audiences], workflows)
    _check_size(len(msgspec.json.encode(bundle)), MAX_BUNDLE_BYTES)
    return bundle


def _write_stored(record: WorkflowRecord, names: Mapping[UUID, str]) -> dict[str, Any]:
    def name_of(kind: NodeKind, uuid: UUID) -> str:
        name = names.get(uuid)
        if name is None:
            gone = "A template" if kind is NodeKind.TEMPLATE else "The audience"
            message = f"{gone} that the workflow {quote(record.name)} names was deleted: give it another one first, or"
            raise BadUserInput(f"{message} export the others, with ids.", path=("ids",))
        return name

    written = write_workflow(decode_definition(record.definition), is_active=record.is_active, name_of=name_of)
    # Below the bundle and its list of workflows.
    if depth_of(written) + 2 > MAX_BUNDLE_DEPTH:
        message = f"The workflow {quote(record.name)} holds JSON that is nested too deeply for a bundle."
        raise BadUserInput(f"{message} Export the others, with ids.", path=("ids",))
    return written
