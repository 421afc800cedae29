"""Root fields of the secret that workflow steps sign with."""

from __future__ import annotations

from typing import Annotated

import strawberry

from engine.webhooks.endpoints import MAX_GRACE_SECONDS
from engine.workflows.signing import DEFAULT_GRACE_SECONDS
from resolvers import workflow_secrets
from schema.info import Info
from schema.workflow_secret import RotateWorkflowSecretPayload


@strawberry.type
class WorkflowSecretsMutation:
    @strawberry.mutation(
        description=(
            "Make the secret that the webhook steps of all workflows of the project are signed with. One before it "
            "keeps signing until graceSeconds have passed; at most two are active. Needs ADMIN."
        )
    )
    async def rotate_workflow_secret(
        self,
        info: Info,
        grace_seconds: Annotated[
            int | None,
            strawberry.argument(description=f"0 to {MAX_GRACE_SECONDS}; 0 ends all older ones at once."),
        ] = DEFAULT_GRACE_SECONDS,
    ) -> RotateWorkflowSecretPayload | None:
        grace = DEFAULT_GRACE_SECONDS if grace_seconds is None else grace_seconds
        return RotateWorkflowSecretPayload.of(
            await workflow_secrets.rotate_workflow_secret(info.context, grace_seconds=grace)
        )
