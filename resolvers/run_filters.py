"""Run filters as clients write them, checked and frozen for the engine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from db.run_filters import RunFilter
from engine.node_ids import NodeKind, parse_node_id
from engine.workflows.definition import RunStatus
from resolvers.filters import MAX_KEYS, bad_input, check_instant, check_text, check_texts


class RunFilterArguments(msgspec.Struct, frozen=True):
    """WorkflowRunFilter as it comes in. Ids are node ids."""

    ids: Sequence[str] | None = None
    workflow_id: str | None = None
    statuses: Sequence[RunStatus] | None = None
    user_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


NO_ARGUMENTS = RunFilterArguments()


def read_run_filter(arguments: RunFilterArguments | None) -> RunFilter:
    """Raises `BadUserInput`, naming the part of the filter that can never work."""
    given = arguments or NO_ARGUMENTS
    ids = check_texts(given.ids, "filter.ids", limit=MAX_KEYS)
    workflow_id = given.workflow_id
    return RunFilter(
        ids=None if ids is None else tuple(_node(each, "filter.ids", NodeKind.WORKFLOW_RUN) for each in ids),
        workflow_id=None if workflow_id is None else _node(workflow_id, "filter.workflowId", NodeKind.WORKFLOW),
        statuses=None if given.statuses is None else tuple(dict.fromkeys(each.value for each in given.statuses)),
        user_id=check_text(given.user_id, "filter.userId"),
        since=check_instant(given.since, "filter.since"),
        until=check_instant(given.until, "filter.until"),
    )


def _node(text: str, name: str, kind: NodeKind) -> UUID:
    """Of another project it is as good as any: the filter looks only into the viewer's."""
    parsed = parse_node_id(text)
    if parsed is None or parsed.kind is not kind:
        raise bad_input(name, f"takes ids that begin with {kind.value}_, exactly as you received them.")
    return parsed.uuid
