"""The public schema. `build_schema` makes it, once per process; `schema.graphql` beside it is its committed text."""

from __future__ import annotations

from functools import cache

import strawberry
from graphql import GraphQLObjectType, Undefined
from strawberry.schema.config import StrawberryConfig

from schema.audience import Audience
from schema.audit_entry import AuditEntry
from schema.board import Board
from schema.consent import ConsentChange
from schema.delivery import Delivery
from schema.event import Event
from schema.inbound_endpoint import InboundEndpoint
from schema.insight import Insight
from schema.mutation import Mutation
from schema.needs import state_needs
from schema.profile import Profile
from schema.project import ApiKey, Organization, Project
from schema.provider import Provider
from schema.push_token import PushToken
from schema.query import Query
from schema.scalars import SCALARS
from schema.sender_domain import SenderDomain
from schema.subscription import Subscription
from schema.template import Template
from schema.webhook_endpoint import WebhookEndpoint
from schema.withheld import read_attribute
from schema.workflow import Workflow
from schema.workflow_run import WorkflowRun


@cache
def build_schema() -> strawberry.Schema:
    """The schema of this process. `build_schema()._schema` is graphql-core's, which the transport runs."""
    schema = strawberry.Schema(
        query=Query,
        mutation=Mutation,
        subscription=Subscription,
        types=[
            Event,
            Profile,
            Project,
            Organization,
            ApiKey,
            Audience,
            AuditEntry,
            ConsentChange,
            Board,
            Delivery,
            InboundEndpoint,
            Insight,
            Provider,
            PushToken,
            SenderDomain,
            Template,
            WebhookEndpoint,
            Workflow,
            WorkflowRun,
        ],
        config=StrawberryConfig(scalar_map=SCALARS, default_resolver=read_attribute),
    )
    _leave_absent_arguments_absent(schema)
    state_needs(schema._schema)
    return schema


def print_sdl() -> str:
    """The schema as SDL, ending with a newline."""
    return build_schema().as_str() + "\n"


def _leave_absent_arguments_absent(schema: strawberry.Schema) -> None:
    """Undo what Strawberry makes of a Python default of None: `= null` in the SDL, which the contract does not have."""
    for graphql_type in schema._schema.type_map.values():
        if isinstance(graphql_type, GraphQLObjectType):
            for field in graphql_type.fields.values():
                for argument in field.args.values():
                    if argument.default_value is None:
                        argument.default_value = Undefined
