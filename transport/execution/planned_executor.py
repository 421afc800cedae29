"""graphql-core's executor for an operation that is run again and again.

The stock executor collects the fields of each selection set anew for every request and every streamed item. Which
fields there are depends only on the document and on the variables that `@skip` and `@include` read; so a plan keeps
what was collected, by the values of those, and every execution of the operation shares it.

Holds for documents without `@defer` and `@stream`, which validation refuses as long as the schema does not declare
them.
"""

from __future__ import annotations

from collections.abc import Awaitable
from copy import copy
from typing import Any, cast

from graphql import (
    ExecutionResult,
    Executor,
    GraphQLError,
    OperationType,
    default_field_resolver,
    default_type_resolver,
)
from graphql.execution.collect_fields import GroupedFieldSet, collect_fields
from graphql.execution.executor import CollectedErrors
from graphql.execution.values import VariableValues

from transport.execution.plan import OperationPlan


class PlannedExecutor(Executor[None]):
    """An executor that starts from the collected root fields of its plan."""

    root_fields: GroupedFieldSet
    plan: OperationPlan

    @staticmethod
    def of(plan: OperationPlan, variable_values: VariableValues, context: object) -> PlannedExecutor:
        """An executor for one execution of the plan's operation."""
        executor = plan.template(variable_values, _template).for_item(None, context)
        executor.variable_values = variable_values
        return executor

    def for_item(self, payload: object, context: object) -> PlannedExecutor:
        """An executor for the same operation and variables with another root value and context."""
        executor = copy(self)
        executor.root_value = payload
        executor.context_value = context
        executor.collected_errors = CollectedErrors()
        executor.pending_incremental_futures = set()
        executor.background_futures = set()
        return executor

    def run(self) -> ExecutionResult | Awaitable[ExecutionResult]:
        """Execute. Errors of fields are in the result; nothing is raised but what is no `Exception`."""
        serially = self.plan.kind is OperationType.MUTATION
        try:
            data = self.execute_root_grouped_field_set(
                self.plan.root_type, self.root_value, self.root_fields, serially, None
            )
        except GraphQLError as error:
            return self._failed(error)
        if self.is_awaitable(data):
            return self._awaited(data)
        return cast("ExecutionResult", self.build_response(cast("dict[str, Any]", data)))

    async def _awaited(self, pending: Awaitable[dict[str, Any]]) -> ExecutionResult:
        try:
            return cast("ExecutionResult", self.build_response(await pending))
        except GraphQLError as error:
            return self._failed(error)

    def _failed(self, error: GraphQLError) -> ExecutionResult:
        self.collected_errors.add(error, None)
        return cast("ExecutionResult", self.build_response(None))


def _template(plan: OperationPlan, values: VariableValues) -> PlannedExecutor:
    """The executor from which all executions with the same selected fields are copied."""
    executor = PlannedExecutor(
        plan.schema,
        plan.fragment_definitions,
        plan.fragments,
        None,
        None,
        plan.operation,
        values,
        default_field_resolver,
        default_type_resolver,
        default_field_resolver,
        hide_suggestions=True,
    )
    executor.plan = plan
    executor.root_fields = collect_fields(
        plan.schema, plan.fragments, values, plan.root_type, plan.operation, True
    ).grouped_field_set
    return executor
