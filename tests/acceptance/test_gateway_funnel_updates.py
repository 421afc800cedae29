"""A followed funnel over the wire: a report at once and when it changes, over WebSocket and event streams alike."""

from __future__ import annotations

from typing import Any

from tests.acceptance.gateway_client import Gateway, code_of, open_event_source, open_socket
from tests.acceptance.test_gateway_revocation import SECONDS, revoke

FOLLOW_FUNNEL = """subscription ($input: FunnelInput!) {
  funnelUpdates(input: $input, intervalMs: 250) { steps { count } }
}"""
INPUT = {"steps": [{"eventType": "trial.begun"}, {"eventType": "trial.won"}], "period": "P1D"}


def counts(payload: Any) -> list[int]:
    return [step["count"] for step in payload["data"]["funnelUpdates"]["steps"]]


async def test_reports_come_at_once_and_when_they_change_and_end_with_the_key(gateway: Gateway) -> None:
    project = await gateway.make_project()
    made = await gateway.data(
        'mutation { createApiKey(name: "t", kind: SECRET, role: VIEWER) { token apiKey { id } } }', key=project
    )
    reader, identifier = made["createApiKey"]["token"], made["createApiKey"]["apiKey"]["id"]

    async with (
        open_socket(gateway, reader) as socket,
        open_event_source(gateway, FOLLOW_FUNNEL, key=reader, input=INPUT) as source,
    ):
        await socket.subscribe("1", FOLLOW_FUNNEL, input=INPUT)
        assert counts((await socket.receive())["payload"]) == counts(await source.item()) == [0, 0]

        await gateway.track(key=project, eventType="trial.begun", userId="ada")
        assert counts((await socket.receive())["payload"]) == counts(await source.item()) == [1, 0]
        await gateway.track(key=project, eventType="trial.won", userId="ada")
        assert counts((await socket.receive())["payload"]) == counts(await source.item()) == [1, 1]

        await revoke(gateway, identifier, key=project)
        assert await socket.closed(within=SECONDS) == (4403, "This API key has been revoked.")
        assert (await source.item(within=SECONDS))["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
        await source.ended()
    assert code_of(await gateway.ask("{ viewer { role } }", key=reader)) == "UNAUTHENTICATED"
