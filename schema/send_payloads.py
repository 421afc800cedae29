"""What mutations answer with that make, change or delete deliveries and what they are made of."""

from __future__ import annotations

from collections.abc import Sequence

import strawberry

from db.delivery_records import DeliveryRecord
from db.send_batches import BatchCounts
from engine import errors
from engine.dispatch.replaying import BulkReplay
from engine.dispatch.sending import SHOWN_DELIVERIES, SentBatch
from schema.delivery import Delivery, batch_node_id
from schema.errors import MutationPayload, user_errors


@strawberry.type(description="A send that was accepted, or why it was not. Needs EDITOR.")
class SendPayload(MutationPayload):
    batch_id: strawberry.ID | None = strawberry.field(
        description="Names the send: a filter for deliveries and deliveryUpdates."
    )
    deliveries: list[Delivery] = strawberry.field(description="The first 100; follow the rest by batchId.")
    queued: int = strawberry.field(
        description="Deliveries to be sent now, as of acceptance; of an audience, those made by then."
    )
    scheduled: int = strawberry.field(
        description="Deliveries to be sent later, as of acceptance; members of an audience are found when it is due."
    )
    suppressed: int = strawberry.field(description="Deliveries held back, as of acceptance.")

    @staticmethod
    def of(batch: SentBatch | None, errors: tuple[errors.UserError, ...] = ()) -> SendPayload:
        counts = BatchCounts(0, 0, 0) if batch is None else batch.counts
        return SendPayload(
            batch_id=None if batch is None else batch_node_id(batch.batch_id),
            deliveries=[] if batch is None else _shown(batch.deliveries),
            queued=counts.queued,
            scheduled=counts.scheduled,
            suppressed=counts.suppressed,
            user_errors=user_errors(errors),
        )


@strawberry.type(description="A delivery after a change, or why nothing was changed. Needs EDITOR.")
class DeliveryPayload(MutationPayload):
    delivery: Delivery | None = strawberry.field(description="As it is now; null when nothing was changed.")

    @staticmethod
    def of(record: DeliveryRecord | None, errors: tuple[errors.UserError, ...] = ()) -> DeliveryPayload:
        return DeliveryPayload(
            delivery=None if record is None else Delivery.of(record), user_errors=user_errors(errors)
        )


@strawberry.type(description="A replay adds an attempt to the same delivery, with its event id. Needs EDITOR.")
class ReplayPayload(MutationPayload):
    batch_id: strawberry.ID | None = strawberry.field(
        description="Names the replay: what is replayed has it as its batchId. Null when nothing matches."
    )
    replayed: int = strawberry.field(description="How many deliveries are sent again, counted at acceptance.")
    deliveries: list[Delivery] = strawberry.field(description="The first 100; follow the rest by batchId.")

    @staticmethod
    def of(replay: BulkReplay | None, errors: tuple[errors.UserError, ...] = ()) -> ReplayPayload:
        """None where nothing is replayed."""
        return ReplayPayload(
            batch_id=None if replay is None else batch_node_id(replay.batch_id),
            replayed=0 if replay is None else replay.replayed,
            deliveries=[] if replay is None else _shown(replay.deliveries),
            user_errors=user_errors(errors),
        )


@strawberry.type(description="What was deleted, or why nothing was. Needs EDITOR, or what its mutation says.")
class DeletePayload(MutationPayload):
    deleted_id: strawberry.ID | None = strawberry.field(description="Its node id; null when nothing was deleted.")

    @staticmethod
    def of(deleted_id: str | None, errors: tuple[errors.UserError, ...] = ()) -> DeletePayload:
        return DeletePayload(
            deleted_id=None if deleted_id is None else strawberry.ID(deleted_id), user_errors=user_errors(errors)
        )


def _shown(deliveries: Sequence[DeliveryRecord]) -> list[Delivery]:
    return [Delivery.of(record) for record in deliveries[:SHOWN_DELIVERIES]]
