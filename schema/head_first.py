"""Project.head before the rest: whoever asks for the head and for anything else at once can follow from that head
without missing what the rest of the answer does not show yet."""

from __future__ import annotations

from collections.abc import Mapping

from graphql import FieldNode, FragmentDefinitionNode, FragmentSpreadNode, InlineFragmentNode, SelectionSetNode

from resolvers.context import Context
from resolvers.projects import read_head_first
from schema.info import Info

HEAD = "head"
"""Name of the one field in the schema that is a position of the log now."""


async def reading(info: Info) -> Context:
    """The context of a query's root field, once the head has been read if any field of the operation asks for it."""
    ctx: Context = info.context
    raw = info._raw_info
    if ctx.selects_head is None:
        ctx.selects_head = _selects(raw.operation.selection_set, raw.fragments, set())
    if ctx.selects_head:
        await read_head_first(ctx)
    return ctx


def _selects(
    selection_set: SelectionSetNode | None, fragments: Mapping[str, FragmentDefinitionNode], seen: set[str]
) -> bool:
    """Whether the field occurs anywhere, skipped or not: reading it in vain is cheap."""
    for selection in selection_set.selections if selection_set else ():
        match selection:
            case FieldNode(name=name, selection_set=inner):
                if name.value == HEAD or _selects(inner, fragments, seen):
                    return True
            case InlineFragmentNode(selection_set=inner):
                if _selects(inner, fragments, seen):
                    return True
            case FragmentSpreadNode(name=name) if name.value not in seen:
                seen.add(name.value)
                if name.value in fragments and _selects(fragments[name.value].selection_set, fragments, seen):
                    return True
    return False
