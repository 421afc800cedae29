"""Templates."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import strawberry

from db.templates import TemplateRecord
from engine.dispatch.values import Channel
from engine.errors import UserError as EngineUserError
from engine.node_ids import NodeKind, write_node_id
from resolvers.paging import Page
from schema.errors import MutationPayload, user_errors
from schema.inputs import keep_mapping
from schema.node import Node
from schema.paging import PageInfo, edges_of
from schema.scalars import Cursor

LIQUID = "Liquid: {{ user.* }}, {{ profile.* }}, {{ trait.* }}, {{ event.* }} and vars at the top level."


@strawberry.type(description="Texts under a name, with Liquid in them. Needs VIEWER.")
class Template(Node):
    name: str = strawberry.field(description="1 to 100 characters, once per project.")
    channel: Channel = strawberry.field(description="What it is for.")
    subject: str | None = strawberry.field(description="Of an email; the title of a push. Values are not escaped.")
    body_html: str | None = strawberry.field(
        description="Of an email. Values are escaped, unless the template says | safe."
    )
    body_text: str | None = strawberry.field(
        description="Of anything but HTML. An email without one gets the text of its HTML."
    )
    updated_at: datetime = strawberry.field(description="When it was last saved.")

    @staticmethod
    def of(record: TemplateRecord) -> Template:
        return Template(
            id=strawberry.ID(write_node_id(NodeKind.TEMPLATE, record.template_id)),
            name=record.name,
            channel=Channel(record.channel),
            subject=record.subject,
            body_html=record.body_html,
            body_text=record.body_text,
            updated_at=record.updated_at,
        )


@strawberry.type(description="A template and its position in a list. Needs VIEWER.")
class TemplateEdge:
    cursor: Cursor = strawberry.field(description="Position in lists of templates.")
    node: Template = strawberry.field(description="The template.")


@strawberry.type(description="A page of templates, by name. Needs VIEWER.")
class TemplateConnection:
    edges: list[TemplateEdge] = strawberry.field(description="Up to 100 templates.")
    page_info: PageInfo = strawberry.field(description="Where this page stands in the list.")

    @staticmethod
    def of(page: Page[TemplateRecord]) -> TemplateConnection:
        return TemplateConnection(
            edges=edges_of(page, TemplateEdge, Template.of),
            page_info=PageInfo.of(page),
        )


@strawberry.input(description="With id, what is absent stays as it is and null clears it. Without, a template is made.")
class SaveTemplateInput:
    id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="Which to change.")
    name: str | None = strawberry.field(
        default=strawberry.UNSET, description="1 to 100 characters, once per project. Needed when it is made."
    )
    channel: Channel | None = strawberry.field(
        default=strawberry.UNSET, description="What it is for. Needed when it is made."
    )
    subject: str | None = strawberry.field(default=strawberry.UNSET, description=f"Up to 998 characters. {LIQUID}")
    body_html: str | None = strawberry.field(default=strawberry.UNSET, description=f"Up to 256 KiB. {LIQUID}")
    body_text: str | None = strawberry.field(default=strawberry.UNSET, description=f"Up to 256 KiB. {LIQUID}")


keep_mapping(SaveTemplateInput)

SaveTemplateArguments = dict[str, Any]
"""The input as it was coerced: what is absent is not in it."""

_NAMES = {"name": "name", "channel": "channel", "subject": "subject", "bodyHtml": "body_html", "bodyText": "body_text"}


def given_texts(arguments: SaveTemplateArguments) -> dict[str, Any]:
    """By the names of the record."""
    return {_NAMES[name]: value for name, value in arguments.items() if name in _NAMES}


@strawberry.type(description="Outcome of saveTemplate; whoever may save sees it. Needs EDITOR.")
class TemplatePayload(MutationPayload):
    template: Template | None = strawberry.field(description="As it is now; null when nothing was changed.")

    @staticmethod
    def of(record: TemplateRecord | None, errors: tuple[EngineUserError, ...]) -> TemplatePayload:
        return TemplatePayload(
            template=None if record is None else Template.of(record), user_errors=user_errors(errors)
        )
