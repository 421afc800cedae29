"""The dispatcher: what is claimed, sent and written down, and in what order."""

from __future__ import annotations

from engine.dispatch.values import Channel
from tests.integration.dispatch_support import open_desk


async def test_a_due_delivery_is_sent_and_every_step_is_in_the_lane(database_url: str) -> None:
    async with open_desk(database_url) as desk:
        project = await desk.project()
        (webhook,) = await desk.enqueue(project)
        (push,) = await desk.enqueue(project, channel=Channel.PUSH)

        await desk.drain(desk.dispatcher(), project)

        assert await desk.steps(project) == {
            webhook: ["QUEUED", "SENDING", "DELIVERED"],
            push: ["QUEUED", "SENDING", "SENT"],
        }
        assert await desk.events(project) == {"push.send_requested": 1, "push.sent": 1}
        assert [message.key for message in (*desk.webhook.received, *desk.push.received)] == [webhook, push]
        stored = await desk.delivery(project, webhook)
        assert (stored.attempt_count, stored.delivered_at, stored.error_code) == (1, desk.clock.at, None)
        (attempt,) = await desk.attempts(project, webhook)
        assert (attempt.number, attempt.at, attempt.error_code) == (1, desk.clock.at, None)
