"""What the webhooks of workflow steps are signed with."""

from __future__ import annotations

import strawberry

from engine.workflows.signing import RotatedSecret
from schema.errors import MutationPayload, user_errors


@strawberry.type(description="What became of rotateWorkflowSecret. Needs ADMIN.")
class RotateWorkflowSecretPayload(MutationPayload):
    secret: str | None = strawberry.field(
        description="whsec_… and base64, for the receivers. Shown once; null when nothing was changed."
    )

    @staticmethod
    def of(rotated: RotatedSecret) -> RotateWorkflowSecretPayload:
        return RotateWorkflowSecretPayload(secret=rotated.secret, user_errors=user_errors(rotated.errors))
