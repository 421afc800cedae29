"""The schema as text: what is committed, and what every reader of it may expect."""

from __future__ import annotations

from pathlib import Path

from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLScalarType,
    Undefined,
    validate_schema,
)

from db.funnels import FunnelOrder
from db.trends import Measure
from engine.analytics.buckets import Interval
from engine.channels.push_message import PushEnvironment
from engine.push.content import PushPriority
from engine.workflows.definition import ReentryPolicy
from schema import build_schema, print_sdl

COMMITTED = Path(__file__).parents[2] / "schema" / "schema.graphql"
SCHEMA = build_schema()._schema
OURS: list[GraphQLNamedType] = [each for name, each in SCHEMA.type_map.items() if not name.startswith("__")]
BUILT_IN = {"String", "Int", "Float", "Boolean", "ID"}


def test_committed_sdl_is_the_schema_that_is_served() -> None:
    assert COMMITTED.read_text() == print_sdl(), "run `python cli.py schema > schema/schema.graphql`"


def test_schema_is_valid() -> None:
    assert validate_schema(SCHEMA) == []


def test_everything_has_a_description() -> None:
    missing = [each.name for each in OURS if each.name not in BUILT_IN and not each.description]
    for each in OURS:
        if isinstance(each, GraphQLObjectType | GraphQLInterfaceType | GraphQLInputObjectType):
            missing += [f"{each.name}.{name}" for name, found in each.fields.items() if not found.description]
        if isinstance(each, GraphQLObjectType):
            missing += [
                f"{each.name}.{name}({argument})"
                for name, found in each.fields.items()
                for argument, definition in found.args.items()
                if not definition.description
            ]
        if isinstance(each, GraphQLEnumType):
            missing += [f"{each.name}.{name}" for name, value in each.values.items() if not value.description]
    assert missing == []


def test_every_field_that_is_read_says_which_role_it_needs() -> None:
    """Either the field says so, or its type does for all of its fields; of payloads their mutation does."""
    exempt = {"PageInfo", "UserError", "Subscription"}
    silent = [
        f"{each.name}.{name}"
        for each in OURS
        if isinstance(each, GraphQLObjectType) and each.name not in exempt
        if "MutationPayload" not in {interface.name for interface in each.interfaces}
        for name, found in each.fields.items()
        if "Needs" not in (found.description or "") and not _type_says(each)
    ]
    assert silent == []


def _type_says(each: GraphQLObjectType) -> bool:
    return any(word in (each.description or "") for word in ("Needs", "needs", "Whoever tracked"))


def test_nothing_has_null_as_its_default() -> None:
    """`= null` tells introspection that null and absent are the same; only what the contract states has a default."""
    with_null = [
        f"{each.name}.{name}({argument})"
        for each in OURS
        if isinstance(each, GraphQLObjectType)
        for name, found in each.fields.items()
        for argument, definition in found.args.items()
        if definition.default_value is None
    ]
    assert with_null == []


def test_defaults_are_those_of_the_contract() -> None:
    defaults = {
        f"{each.name}.{name}": found.default_value
        for each in OURS
        if isinstance(each, GraphQLInputObjectType)
        for name, found in each.fields.items()
        if found.default_value is not Undefined
    }
    assert defaults == {
        "EventInput.module": "analytics",
        "EventInput.properties": {},
        "EventInput.context": {},
        "PushContentInput.priority": PushPriority.HIGH,
        "RegisterPushTokenInput.environment": PushEnvironment.PRODUCTION,
        "SendEmailInput.vars": {},
        "SignInAnonymouslyInput.traits": {},
        "SignUpInput.traits": {},
        "SendPushInput.ignoreQuietHours": False,
        "ScheduleInput.timezone": "UTC",
        "TestRunWorkflowInput.properties": {},
        "TestRunWorkflowInput.context": {},
        "WorkflowTriggerInput.reentry": ReentryPolicy.ALWAYS,
        "FunnelStepInput.optional": False,
        "FunnelInput.compare": False,
        "FunnelInput.groupLimit": 10,
        "FunnelInput.order": FunnelOrder.ORDERED,
        "FunnelInput.windowSeconds": 7 * 24 * 3600,
        "RetentionInput.timezone": "UTC",
        "RetentionInput.interval": Interval.DAY,
        "RetentionInput.periods": 8,
        "TrendInput.measure": Measure.COUNT,
        "TrendInput.interval": Interval.DAY,
        "TrendInput.groupLimit": 10,
        "TrendInput.timezone": "UTC",
        "TrendInput.compare": False,
    }


def test_custom_scalars_are_the_four_of_the_contract() -> None:
    scalars = {each.name for each in OURS if isinstance(each, GraphQLScalarType)}
    assert scalars - BUILT_IN == {"DateTime", "JSON", "BigInt", "Cursor"}


def test_root_fields_are_nullable_but_for_the_two_that_the_contract_makes_non_null() -> None:
    roots = [root for root in (SCHEMA.query_type, SCHEMA.mutation_type, SCHEMA.subscription_type) if root]
    non_null = {
        f"{root.name}.{name}" for root in roots for name, found in root.fields.items() if str(found.type)[-1] == "!"
    }
    assert non_null == {"Query.viewer", "Query.nodes"}
