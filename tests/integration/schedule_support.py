"""What the tests of schedules share: audiences, their people, and a worker that does all that is due."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from db.audiences import insert_audience
from engine.audiences.conditions import encode_conditions
from engine.workflows.definition import Schedule
from engine.workflows.definitions import Definitions
from engine.workflows.enrolment import Enrolment
from tests.integration.log_support import new_event
from tests.integration.trigger_support import Stage, conditions

DAILY = Schedule("0 9 * * *", "Europe/Berlin")
"""At 07:00 UTC in summer; the clock stands at noon UTC of 1 May."""
EVERYBODY = {"path": "profile.userId", "op": "EXISTS"}


def enrolment_of(stage: Stage) -> Enrolment:
    """Of another worker."""
    return Enrolment(stage.database, stage.clock, Definitions(), stage.announced.append, stage.woken.append)


async def carry_out(stage: Stage) -> list[str | None]:
    """Do all that is due; who has a run then, in the order in which they began."""
    while await enrolment_of(stage).carry_out(stage.project_id):
        pass
    return [run.user_id for run in await stage.runs()]


async def make_audience(stage: Stage, *given: dict[str, Any]) -> UUID:
    """Of everybody, unless conditions are given."""
    audience_id = uuid7()
    async with stage.database.transaction() as connection:
        await insert_audience(
            connection,
            project_id=stage.project_id,
            audience_id=audience_id,
            name=audience_id.hex,
            conditions=encode_conditions(conditions(*(given or (EVERYBODY,)))),
            now=stage.now,
        )
    return audience_id


async def make_people(stage: Stage, *user_ids: str, traits: str = "{}") -> None:
    """Each is named by an event."""
    await stage.append(
        *(new_event(f"k-{uuid7()}", event_type="signed", user_id=user_id, traits=traits) for user_id in user_ids)
    )
