"""Workflows: trying one that is not saved yet on a sample event. Nothing is stored and nothing is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.templates import read_templates
from engine.dispatch.values import Channel
from engine.errors import UserError
from engine.identity import Role
from engine.node_ids import NodeKind
from engine.workflows.definition import Definition
from engine.workflows.dry_run import DryRun, SampleEvent, dry_run
from engine.workflows.validation import named_nodes, read_definition
from resolvers.context import Context
from resolvers.permissions import require

if TYPE_CHECKING:
    import asyncpg

_DRAFT = ("input", "draft")
_UNNAMED = "Draft"
_WORDS = {NodeKind.TEMPLATE: "template for email", NodeKind.AUDIENCE: "audience"}


async def test_run_workflow(ctx: Context, *, given: Mapping[str, Any]) -> DryRun:
    """What a workflow would do for an event. `given` has the names of TestRunWorkflowInput, without what was not."""
    viewer = require(ctx, Role.EDITOR)
    draft = given.get("draft")
    if (given.get("workflowId") is None) == (draft is None):
        message = "Give workflowId or draft, and not both."
        return DryRun(errors=(UserError(message, "INVALID", ("input", "workflowId")),))
    if draft is None:
        message = "This project has no such workflow."
        return DryRun(errors=(UserError(message, "NOT_FOUND", ("input", "workflowId")),))
    sample = _sample(given)
    if isinstance(sample, UserError):
        return DryRun(errors=(sample,))
    named = {**draft, "name": draft.get("name") or _UNNAMED}
    definition, errors = await asyncio.to_thread(
        partial(read_definition, named, egress=ctx.services.egress, path=_DRAFT)
    )
    if definition is None:
        return DryRun(errors=errors)
    async with ctx.reading(viewer.project_id) as connection:
        errors = await _missing_nodes(connection, viewer.project_id, definition)
        if errors:
            return DryRun(errors=errors)
        return await dry_run(
            connection,
            ctx.services.vault,
            ctx.services.egress,
            project=viewer.project,
            definition=definition,
            sample=sample,
            now=ctx.services.clock.now(),
        )


def _sample(given: Mapping[str, Any]) -> SampleEvent | UserError:
    texts = []
    for name in ("properties", "context"):
        try:
            texts.append(msgspec.json.encode({} if given.get(name) is None else given[name]))
        except (UnicodeEncodeError, TypeError, RecursionError):
            return UserError(f"{name} holds something that is no JSON.", "INVALID", ("input", name))
    return SampleEvent(
        event_type=given["eventType"], user_id=given.get("userId"), properties=texts[0], context=texts[1]
    )


async def _missing_nodes(
    connection: asyncpg.Connection, project_id: UUID, definition: Definition
) -> tuple[UserError, ...]:
    """What the definition names and the project does not have. No project has audiences yet."""
    named = list(named_nodes(definition, _DRAFT))
    wanted = [uuid for kind, uuid, _ in named if kind is NodeKind.TEMPLATE]
    found = await read_templates(connection, project_id=project_id, template_ids=wanted) if wanted else []
    there = {each.template_id for each in found if each.channel == Channel.EMAIL}
    return tuple(
        UserError(f"This project has no such {_WORDS[kind]}.", "NOT_FOUND", path)
        for kind, uuid, path in named
        if uuid not in there
    )
