"""What to announce of transitions that one statement wrote together with their deliveries.

That is the other way into the deliveries lane besides `engine.dispatch.ledger`, for whoever has no events to append: a
round of claims or of outcomes (`db.dispatch.write_claims`, `write_settlements`). To be announced after the commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from db.deliveries import transition_records
from db.delivery_records import NewTransition
from db.dispatch import Written
from db.records import Lane
from engine.announcements import Announcement


def announcements_of(
    project_id: UUID, written: Written[Any], transitions: Sequence[NewTransition], at: datetime
) -> tuple[Announcement, ...]:
    """`transitions` are those of what was written, in the order that it was given; `at` is business time."""
    if written.epoch is None:
        return ()
    records = transition_records(project_id, written.first_seq, transitions, at)
    return (Announcement(project_id, Lane.DELIVERIES, written.epoch, records[0].seq, records[-1].seq, records),)
