"""Every mutation either changes no configuration, for a reason that stands here, or leaves exactly one entry in the
audit log when it changes something, and none when it does not; and no secret is in the log, nor in a line of ours.

A mutation that is in neither list fails: say which it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from engine.email.domains import txt_look_up
from engine.identity import Role
from engine.node_ids import NodeKind, write_node_id
from engine.workflows.signing import active_step_secrets
from schema import build_schema
from tests.integration.delivery_support import make_delivery
from tests.integration.graphql_support import Gateway, Tenant, open_gateway
from tests.integration.run_support import start_run
from tests.peers.dns import DnsPeer, dns_peer

SCHEMA = build_schema()._schema
SECRET = "Hunter2-of-nobody-elses-business"
ACCOUNT = "AC" + "0" * 32
DOCUMENTATION = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
HTTPS = "https://93.184.216.34/hook"
"""A public address, so that nobody asks a name server."""

NOT_CONFIGURATION = {
    "track": "an event",
    "trackBatch": "events",
    "trackPush": "an event",
    "identify": "what a person is like",
    "registerPushToken": "an app's own device",
    "unregisterPushToken": "an app's own device",
    "registerLiveActivityToken": "an app's own device",
    "sendPush": "a message; deliveries tell of it",
    "sendTestPush": "a message; deliveries tell of it",
    "sendLiveActivity": "a message; deliveries tell of it",
    "sendEmail": "a message; deliveries tell of it",
    "sendSms": "a message; deliveries tell of it",
    "sendTestWebhook": "a message; deliveries tell of it",
    "testRunWorkflow": "stores nothing",
    "signInAnonymously": "an end user's own session",
    "signUp": "an end user's own account; an event tells of it",
    "signIn": "an end user's own session; an event tells of it",
    "refreshSession": "an end user's own session",
    "signOut": "an end user's own session",
    "enrollTotp": "an end user's own account; an event tells of it",
    "confirmTotp": "an end user's own account; an event tells of it",
    "disableTotp": "an end user's own account; an event tells of it",
}

Entry = tuple[str, str, Any, Any]
"""Action, subject, before, after."""


@dataclass
class Log:
    """A tenant, and what its changes leave in the audit log."""

    shop: Tenant
    name_server: DnsPeer
    noted: int = 0
    refused: int = 0
    secrets: set[str] = field(default_factory=lambda: {SECRET})
    actions: set[str] = field(default_factory=set)

    async def run(self, mutation: str, selection: str = "", **arguments: Any) -> Any:
        """A mutation's payload."""
        types = SCHEMA.mutation_type.fields[mutation].args  # type: ignore[union-attr]
        declared = ", ".join(f"${name}: {types[name].type}" for name in arguments)
        passed = ", ".join(f"{name}: ${name}" for name in arguments)
        document = (
            f"mutation {f'({declared})' if declared else ''} "
            f"{{ {mutation}{f'({passed})' if passed else ''} {{ {selection} userErrors {{ code message path }} }} }}"
        )
        return (await self.shop.data(document, **arguments))[mutation]

    async def make(self, mutation: str, selection: str, **arguments: Any) -> str:
        """The id of something that is there before."""
        payload = await self.run(mutation, f"{selection} {{ id }}", **arguments)
        assert payload["userErrors"] == [], payload
        return str(payload[selection]["id"])

    async def change(self, mutation: str, selection: str = "", **arguments: Any) -> tuple[Any, list[Entry]]:
        """What a mutation that succeeds answers, and what it leaves in the log, oldest first."""
        before = await self._entries()
        payload = await self.run(mutation, selection, **arguments)
        assert payload["userErrors"] == [], payload
        made = (await self._entries())[len(before) :]
        assert self.shop.viewer is not None
        assert {entry["actor"] for entry in made} <= {self.shop.viewer.actor}
        self.noted += len(made)
        self.actions |= {entry["action"] for entry in made}
        return payload, [(entry["action"], entry["subject"], entry["before"], entry["after"]) for entry in made]

    async def one(self, mutation: str, selection: str = "", **arguments: Any) -> tuple[Any, Entry]:
        """The same for a mutation that leaves one entry."""
        payload, entries = await self.change(mutation, selection, **arguments)
        assert len(entries) == 1, entries
        return payload, entries[0]

    async def nothing(self, mutation: str, **arguments: Any) -> None:
        """A mutation that succeeds and changes nothing leaves nothing."""
        assert (await self.change(mutation, **arguments))[1] == []

    async def refuse(self, mutation: str, **arguments: Any) -> None:
        """A mutation that fails leaves nothing."""
        before = await self._entries()
        assert (await self.run(mutation, **arguments))["userErrors"] != []
        assert await self._entries() == before
        self.refused += 1

    async def _entries(self) -> list[Any]:
        listed = await self.shop.data(
            "{ auditLog(last: 100) { edges { node { at actor action subject before after } } } }"
        )
        return [edge["node"] for edge in reversed(listed["auditLog"]["edges"])]


Case = Callable[[Log], Awaitable[None]]
CASES: dict[str, Case] = {}


def case(mutation: str) -> Callable[[Case], Case]:
    def add(function: Case) -> Case:
        CASES[mutation] = function
        return function

    return add


def test_every_mutation_is_accounted_for() -> None:
    assert SCHEMA.mutation_type is not None
    assert not CASES.keys() & NOT_CONFIGURATION.keys()
    assert set(SCHEMA.mutation_type.fields) == CASES.keys() | NOT_CONFIGURATION.keys()


@pytest.fixture
async def name_server() -> AsyncIterator[DnsPeer]:
    async with dns_peer() as peer:
        yield peer


@pytest.fixture
async def gateway(module_database_url: str, name_server: DnsPeer) -> AsyncIterator[Gateway]:
    async with open_gateway(module_database_url) as opened:
        opened.services = replace(opened.services, look_up_txt=txt_look_up(name_server.address))
        yield opened


@case("saveBoard")
async def _save_board(log: Log) -> None:
    made, entry = await log.one("saveBoard", "board { id }", input={"name": "Sales"})
    board = made["board"]["id"]
    assert entry == ("board.created", board, None, {"name": "Sales", "insightIds": []})
    await log.nothing("saveBoard", input={"id": board, "name": "Sales"})
    insight = await log.make("saveInsight", "insight", input=INSIGHT)
    _, entry = await log.one("saveBoard", input={"id": board, "insightIds": [insight]})
    after = {"name": "Sales", "insightIds": [insight]}
    assert entry == ("board.updated", board, {"name": "Sales", "insightIds": []}, after)
    await log.refuse("saveBoard", input={"id": board, "name": ""})


@case("deleteBoard")
async def _delete_board(log: Log) -> None:
    board = await log.make("saveBoard", "board", input={"name": "Sales"})
    _, entry = await log.one("deleteBoard", id=board)
    assert entry == ("board.deleted", board, {"name": "Sales", "insightIds": []}, None)
    await log.refuse("deleteBoard", id=board)


INSIGHT = {"name": "Orders", "trend": {"event": {"eventType": "order.placed"}}}
SHOWN_INSIGHT = {"name": "Orders", "kind": "TREND", "input": {"event": {"eventType": "order.placed"}}}


@case("saveInsight")
async def _save_insight(log: Log) -> None:
    made, (action, subject, before, after) = await log.one("saveInsight", "insight { id }", input=INSIGHT)
    insight = made["insight"]["id"]
    assert (action, subject, before) == ("insight.created", insight, None)
    assert (after["name"], after["kind"]) == ("Orders", "TREND")
    await log.nothing("saveInsight", input={"id": insight, "name": "Orders"})
    _, (action, _, before, after) = await log.one("saveInsight", input={"id": insight, "name": "Sales"})
    assert (action, before["name"], after) == ("insight.updated", "Orders", {**before, "name": "Sales"})
    await log.refuse("saveInsight", input={"id": insight, "name": ""})


@case("deleteInsight")
async def _delete_insight(log: Log) -> None:
    insight = await log.make("saveInsight", "insight", input=INSIGHT)
    _, (action, subject, before, after) = await log.one("deleteInsight", id=insight)
    assert (action, subject, before["name"], after) == ("insight.deleted", insight, "Orders", None)
    await log.refuse("deleteInsight", id=insight)


WHERE = [{"path": "profile.traits.plan", "op": "EQ", "value": "gold"}]


@case("saveAudience")
async def _save_audience(log: Log) -> None:
    made, entry = await log.one("saveAudience", "audience { id }", input={"name": "VIPs", "where": WHERE})
    audience = made["audience"]["id"]
    assert entry == ("audience.created", audience, None, {"name": "VIPs", "where": WHERE})
    await log.nothing("saveAudience", input={"id": audience, "where": WHERE})
    _, entry = await log.one("saveAudience", input={"id": audience, "where": []})
    assert entry == ("audience.updated", audience, {"name": "VIPs", "where": WHERE}, {"name": "VIPs", "where": []})
    await log.refuse("saveAudience", input={"id": audience, "name": ""})


@case("deleteAudience")
async def _delete_audience(log: Log) -> None:
    audience = await log.make("saveAudience", "audience", input={"name": "VIPs", "where": []})
    _, entry = await log.one("deleteAudience", id=audience)
    assert entry == ("audience.deleted", audience, {"name": "VIPs", "where": []}, None)
    await log.refuse("deleteAudience", id=audience)


@case("saveTemplate")
async def _save_template(log: Log) -> None:
    given = {"name": "Hello", "channel": "EMAIL", "subject": "Hi", "bodyText": "there"}
    made, entry = await log.one("saveTemplate", "template { id }", input=given)
    template, shown = made["template"]["id"], {**given, "bodyHtml": None}
    assert entry == ("template.created", template, None, shown)
    await log.nothing("saveTemplate", input={"id": template, "subject": "Hi"})
    _, entry = await log.one("saveTemplate", input={"id": template, "bodyText": "x" * 200_000})
    assert entry[:3] == ("template.updated", template, shown)
    assert (entry[3]["name"], entry[3]["bodyText"]["bytes"]) == ("Hello", 200_002)
    await log.refuse("saveTemplate", input={"id": template, "name": ""})


@case("deleteTemplate")
async def _delete_template(log: Log) -> None:
    given = {"name": "Hello", "channel": "SMS", "bodyText": "there"}
    template = await log.make("saveTemplate", "template", input=given)
    _, entry = await log.one("deleteTemplate", id=template)
    assert entry == ("template.deleted", template, {**given, "bodyHtml": None, "subject": None}, None)
    await log.refuse("deleteTemplate", id=template)


def hook(**config: Any) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {SECRET}", "X-Team": SECRET}
    return {"label": "hook", "type": "WEBHOOK", "config": {"url": HTTPS, "headers": headers, **config}}


WAIT = {"label": "wait", "type": "WAIT", "config": {}, "delayMinutes": 60}


def journey(*steps: Any, **given: Any) -> dict[str, Any]:
    return {"name": "Journey", "trigger": {"eventType": "order.placed"}, "steps": list(steps) or [WAIT], **given}


@case("saveWorkflow")
async def _save_workflow(log: Log) -> None:
    made, (action, subject, before, after) = await log.one("saveWorkflow", "workflow { id }", input=journey(hook()))
    workflow = made["workflow"]["id"]
    assert (action, subject, before) == ("workflow.created", workflow, None)
    assert (after["name"], after["version"], after["isActive"]) == ("Journey", 1, False)
    assert after["steps"][0]["config"]["headers"] == {"Authorization": "***", "X-Team": "***"}
    await log.nothing("saveWorkflow", input=journey(hook(), id=workflow))

    _, (action, _, before, after) = await log.one("saveWorkflow", input={"id": workflow, "name": "Path"})
    assert (action, before["name"], before["version"]) == ("workflow.updated", "Journey", 1)
    assert after == {**before, "name": "Path", "version": 2}

    many = [{**hook(body={"text": "x" * 1_500}), "label": f"hook {number}"} for number in range(20)]
    _, (_, _, before, after) = await log.one("saveWorkflow", input={"id": workflow, "steps": many})
    assert (len(before["steps"]), after["version"], set(after["steps"])) == (1, 3, {"sha256", "bytes"})
    await log.refuse("saveWorkflow", input={"id": workflow, "steps": []})


@case("setWorkflowActive")
async def _set_workflow_active(log: Log) -> None:
    workflow = await log.make("saveWorkflow", "workflow", input=journey())
    await log.nothing("setWorkflowActive", id=workflow, isActive=False)
    _, (action, subject, before, after) = await log.one("setWorkflowActive", id=workflow, isActive=True)
    assert (action, subject, before["isActive"]) == ("workflow.updated", workflow, False)
    assert after == {**before, "isActive": True}
    await log.refuse("setWorkflowActive", id="wfl_x", isActive=True)


@case("pauseWorkflow")
async def _pause_workflow(log: Log) -> None:
    workflow = await log.make("saveWorkflow", "workflow", input=journey())
    _, entry = await log.one("pauseWorkflow", id=workflow)
    before, after = ({"name": "Journey", "isPaused": is_paused} for is_paused in (False, True))
    assert entry == ("workflow.paused", workflow, before, after)
    await log.nothing("pauseWorkflow", id=workflow)
    await log.refuse("pauseWorkflow", id="wfl_x")


@case("resumeWorkflow")
async def _resume_workflow(log: Log) -> None:
    workflow = await log.make("saveWorkflow", "workflow", input=journey())
    await log.nothing("resumeWorkflow", id=workflow)
    await log.run("pauseWorkflow", id=workflow)
    _, entry = await log.one("resumeWorkflow", id=workflow)
    before, after = ({"name": "Journey", "isPaused": is_paused} for is_paused in (True, False))
    assert entry == ("workflow.resumed", workflow, before, after)
    await log.refuse("resumeWorkflow", id="wfl_x")


@case("deleteWorkflow")
async def _delete_workflow(log: Log) -> None:
    workflow = await log.make("saveWorkflow", "workflow", input=journey())
    _, (action, subject, before, after) = await log.one("deleteWorkflow", id=workflow)
    assert (action, subject, before["name"], after) == ("workflow.deleted", workflow, "Journey", None)
    await log.refuse("deleteWorkflow", id=workflow)


@case("cloneBlueprint")
async def _clone_blueprint(log: Log) -> None:
    made, (action, subject, before, after) = await log.one("cloneBlueprint", "workflow { id }", key="welcome_series")
    assert (action, subject, before) == ("workflow.created", made["workflow"]["id"], None)
    assert after["version"] == 1
    # One that brings an audience makes that too.
    _, entries = await log.change("cloneBlueprint", key="birthday")
    assert [entry[0] for entry in entries] == ["audience.created", "workflow.created"]
    await log.refuse("cloneBlueprint", key="x")


@case("importWorkflows")
async def _import_workflows(log: Log) -> None:
    audiences = [{"name": "VIPs", "where": []}]
    bundle = {"audiences": audiences, "workflows": [journey(hook(), name="One"), journey(name="Two", isActive=True)]}
    await log.nothing("importWorkflows", bundle=bundle, dryRun=True)
    _, entries = await log.change("importWorkflows", bundle=bundle)
    assert [(action, before, after["name"]) for action, _, before, after in entries] == [
        ("audience.created", None, "VIPs"),
        ("workflow.created", None, "One"),
        ("workflow.created", None, "Two"),
    ]
    await log.nothing("importWorkflows", bundle=bundle)
    changed = {**bundle, "workflows": [journey(hook(), name="One", isActive=True), bundle["workflows"][1]]}
    _, (action, _, before, after) = await log.one("importWorkflows", bundle=changed)
    assert (action, before["isActive"], after) == ("workflow.updated", False, {**before, "isActive": True})
    await log.refuse("importWorkflows", bundle={"workflows": [journey(name="")]})


@case("rotateWorkflowSecret")
async def _rotate_workflow_secret(log: Log) -> None:
    made, (action, subject, before, after) = await log.one("rotateWorkflowSecret", "secret")
    log.secrets.add(made["secret"])
    assert (action, subject) == ("workflow_secret.rotated", write_node_id(NodeKind.PROJECT, log.shop.project_id))
    assert (before, len(after["active"]), after["graceSeconds"]) == ({"active": []}, 1, 86400)
    await log.refuse("rotateWorkflowSecret", graceSeconds=-1)


async def _run(log: Log) -> str:
    workflow = await log.make("saveWorkflow", "workflow", input=journey(isActive=True))
    return await start_run(log.shop, workflow)


@case("pauseWorkflowRun")
async def _pause_run(log: Log) -> None:
    run = await _run(log)
    _, entry = await log.one("pauseWorkflowRun", id=run)
    assert entry == ("workflow_run.paused", run, {"status": "RUNNING"}, {"status": "PAUSED"})
    await log.refuse("pauseWorkflowRun", id=run)


@case("resumeWorkflowRun")
async def _resume_run(log: Log) -> None:
    run = await _run(log)
    await log.refuse("resumeWorkflowRun", id=run)
    await log.run("pauseWorkflowRun", id=run)
    _, entry = await log.one("resumeWorkflowRun", id=run)
    assert entry == ("workflow_run.resumed", run, {"status": "PAUSED"}, {"status": "RUNNING"})


@case("cancelWorkflowRun")
async def _cancel_run(log: Log) -> None:
    run = await _run(log)
    _, entry = await log.one("cancelWorkflowRun", id=run)
    assert entry == ("workflow_run.cancelled", run, {"status": "RUNNING"}, {"status": "CANCELLED"})
    await log.refuse("cancelWorkflowRun", id=run)


async def _delivery(log: Log, **values: Any) -> str:
    return write_node_id(NodeKind.DELIVERY, await make_delivery(log.shop, **values))


@case("cancelDelivery")
async def _cancel_delivery(log: Log) -> None:
    delivery = await _delivery(log, user_id="ada")
    _, entry = await log.one("cancelDelivery", id=delivery)
    assert entry == ("delivery.cancelled", delivery, {"status": "QUEUED"}, {"status": "CANCELLED"})
    await log.refuse("cancelDelivery", id=delivery)


@case("replayDelivery")
async def _replay_delivery(log: Log) -> None:
    delivery = await _delivery(log, status="FAILED")
    _, entry = await log.one("replayDelivery", id=delivery)
    assert entry == ("delivery.replayed", delivery, {"status": "FAILED"}, {"status": "QUEUED"})
    await log.refuse("replayDelivery", id=delivery)


@case("replayDeliveries")
async def _replay_deliveries(log: Log) -> None:
    one, _ = [await _delivery(log, status="FAILED", user_id=who) for who in ("ada", "bob")]
    made, entry = await log.one("replayDeliveries", "replayed batchId", filter={"ids": [one], "userId": "ada"})
    assert made["replayed"] == 1
    given = {"ids": [one], "userId": "ada", "statuses": ["FAILED", "DEAD_LETTERED", "UNCERTAIN"]}
    assert entry == ("deliveries.replayed", made["batchId"], None, {"replayed": 1, "filter": given})
    await log.nothing("replayDeliveries", filter={"ids": [one], "statuses": ["FAILED"]})
    await log.refuse("replayDeliveries", filter={})


@case("createProject")
async def _create_project(log: Log) -> None:
    made, (action, subject, before, after) = await log.one("createProject", "project { id } token", name="Two")
    log.secrets.add(made["token"])
    first = after.pop("firstKey")
    assert (action, subject, before, after) == ("project.created", made["project"]["id"], None, {"name": "Two"})
    assert (first["role"], made["token"].startswith(first["prefix"])) == ("ADMIN", True)
    # The log of the new project begins with it, and names who made it.
    other = Tenant(log.shop.gateway, await log.shop.gateway.identities.viewer_of(made["token"]))
    [edge] = (await other.data("{ auditLog { edges { node { actor action } } } }"))["auditLog"]["edges"]
    assert log.shop.viewer is not None
    assert edge["node"] == {"actor": log.shop.viewer.actor, "action": "project.created"}
    await log.refuse("createProject", name="")


KEY = {"name": "Key", "kind": "SECRET", "role": "VIEWER"}


@case("createApiKey")
async def _create_api_key(log: Log) -> None:
    made, (action, subject, before, after) = await log.one("createApiKey", "apiKey { id prefix } token", **KEY)
    log.secrets.add(made["token"])
    assert (action, subject, before) == ("api_key.created", made["apiKey"]["id"], None)
    assert after == {**KEY, "environment": "PROD", "prefix": made["apiKey"]["prefix"], "revokedAt": None}
    await log.refuse("createApiKey", **{**KEY, "name": ""})


@case("revokeApiKey")
async def _revoke_api_key(log: Log) -> None:
    key = await log.make("createApiKey", "apiKey", **KEY)
    _, (action, subject, before, after) = await log.one("revokeApiKey", id=key)
    assert (action, subject, before["revokedAt"], after["name"]) == ("api_key.revoked", key, None, "Key")
    assert after["revokedAt"] is not None
    await log.nothing("revokeApiKey", id=key)
    await log.refuse("revokeApiKey", id="key_x")


@case("updatePushSettings")
async def _update_push_settings(log: Log) -> None:
    _, (action, subject, before, after) = await log.one("updatePushSettings", input={"freqCapPerUserPerDay": 3})
    assert (action, subject) == ("push_settings.updated", write_node_id(NodeKind.PROJECT, log.shop.project_id))
    assert (before["freqCapPerUserPerDay"], after) == (None, {**before, "freqCapPerUserPerDay": 3})
    await log.nothing("updatePushSettings", input={"freqCapPerUserPerDay": 3})
    await log.refuse("updatePushSettings", input={"freqCapPerUserPerDay": 0})


@case("configureProvider")
async def _configure_provider(log: Log) -> None:
    given = {"kind": "TWILIO", "settings": {"accountSid": ACCOUNT}, "secrets": {"authToken": SECRET}}
    made, entry = await log.one("configureProvider", "provider { id }", input=given)
    provider, shown = made["provider"]["id"], {**given, "secrets": {"authToken": "***"}}
    assert entry == ("provider.created", provider, None, shown)
    await log.nothing("configureProvider", input=given)
    other = {"kind": "TWILIO", "secrets": {"authToken": f"{SECRET}-2"}}
    _, entry = await log.one("configureProvider", input=other)
    anew = {**shown, "secrets": {"authToken": "*** (changed)"}}
    assert entry == ("provider.updated", provider, shown, anew)
    _, entry = await log.one("configureProvider", input={"kind": "TWILIO", "secrets": {"authToken": None}})
    assert entry == ("provider.updated", provider, shown, {**shown, "secrets": {}})
    await log.refuse("configureProvider", input={"kind": "TWILIO", "settings": {"form": SECRET}})
    await log.refuse("configureProvider", input={"kind": "SMTP", "secrets": {"pass": SECRET}})


@case("deleteProvider")
async def _delete_provider(log: Log) -> None:
    given = {"kind": "RESEND", "settings": {"from": "shop@example.com"}, "secrets": {"apiKey": SECRET}}
    provider = await log.make("configureProvider", "provider", input=given)
    _, entry = await log.one("deleteProvider", id=provider)
    assert entry == ("provider.deleted", provider, {**given, "secrets": {"apiKey": "***"}}, None)
    await log.refuse("deleteProvider", id=provider)


@case("addSenderDomain")
async def _add_sender_domain(log: Log) -> None:
    made, entry = await log.one("addSenderDomain", "senderDomain { id }", domain="shop.example")
    after = {"domain": "shop.example", "status": "PENDING", "verifiedRecords": []}
    assert entry == ("sender_domain.created", made["senderDomain"]["id"], None, after)
    await log.refuse("addSenderDomain", domain="shop.example")


@case("verifySenderDomain")
async def _verify_sender_domain(log: Log) -> None:
    made = await log.run("addSenderDomain", "senderDomain { id dnsRecords { name value } }", domain="shop.example")
    domain, shown = made["senderDomain"]["id"], {"domain": "shop.example"}
    _, entry = await log.one("verifySenderDomain", id=domain)
    failed = {**shown, "status": "FAILED", "verifiedRecords": []}
    assert entry == ("sender_domain.updated", domain, {**failed, "status": "PENDING"}, failed)
    await log.nothing("verifySenderDomain", id=domain)
    for record in made["senderDomain"]["dnsRecords"]:
        log.name_server.txt[record["name"]] = [record["value"]]
    _, entry = await log.one("verifySenderDomain", id=domain)
    verified = {**shown, "status": "VERIFIED", "verifiedRecords": ["DKIM", "DMARC", "SPF"]}
    assert entry == ("sender_domain.updated", domain, failed, verified)
    await log.refuse("verifySenderDomain", id="dom_x")


ENDPOINT = {"url": f"{HTTPS}?token={SECRET}", "events": ["order.*"]}


@case("saveWebhookEndpoint")
async def _save_webhook_endpoint(log: Log) -> None:
    made, (action, subject, before, after) = await log.one(
        "saveWebhookEndpoint", "endpoint { id } secret", input=ENDPOINT
    )
    log.secrets.add(made["secret"])
    endpoint = made["endpoint"]["id"]
    assert (action, subject, before) == ("webhook_endpoint.created", endpoint, None)
    assert (after["url"], after["events"], after["enabled"]) == (f"{HTTPS}?token=***", ["order.*"], True)
    await log.nothing("saveWebhookEndpoint", input={"id": endpoint, "events": ["order.*"]})
    _, entry = await log.one("saveWebhookEndpoint", input={"id": endpoint, "enabled": False})
    assert entry == ("webhook_endpoint.updated", endpoint, after, {**after, "enabled": False})
    # Two secrets in a URL look the same here, and are another one all the same.
    _, entry = await log.one("saveWebhookEndpoint", input={"id": endpoint, "url": f"{HTTPS}?token={SECRET}-2"})
    assert entry[2] == entry[3]
    await log.refuse("saveWebhookEndpoint", input={"id": endpoint, "events": []})


@case("deleteWebhookEndpoint")
async def _delete_webhook_endpoint(log: Log) -> None:
    endpoint = await log.make("saveWebhookEndpoint", "endpoint", input=ENDPOINT)
    _, (action, subject, before, after) = await log.one("deleteWebhookEndpoint", id=endpoint)
    assert (action, subject, before["events"], after) == ("webhook_endpoint.deleted", endpoint, ["order.*"], None)
    await log.refuse("deleteWebhookEndpoint", id=endpoint)


async def _rotated(log: Log) -> tuple[str, Any, Entry]:
    endpoint = await log.make("saveWebhookEndpoint", "endpoint", input=ENDPOINT)
    made, entry = await log.one("rotateWebhookSecret", "endpoint { secrets { id hint } } secret", id=endpoint)
    log.secrets.add(made["secret"])
    return endpoint, made["endpoint"]["secrets"], entry


@case("rotateWebhookSecret")
async def _rotate_webhook_secret(log: Log) -> None:
    endpoint, secrets, (action, subject, before, after) = await _rotated(log)
    assert (action, subject) == ("webhook_endpoint.secret_rotated", endpoint)
    assert [each["id"] for each in before["active"]] == [secrets[0]["id"]]
    assert [(each["id"], each["hint"]) for each in after["active"]] == [(each["id"], each["hint"]) for each in secrets]
    assert [each["expiresAt"] is None for each in after["active"]] == [False, True]
    await log.refuse("rotateWebhookSecret", id=endpoint)


@case("retireWebhookSecret")
async def _retire_webhook_secret(log: Log) -> None:
    endpoint, (old, new), _ = await _rotated(log)
    _, (action, subject, before, after) = await log.one("retireWebhookSecret", endpointId=endpoint, secretId=old["id"])
    assert (action, subject) == ("webhook_endpoint.secret_retired", endpoint)
    assert [each["id"] for each in before["active"]] == [old["id"], new["id"]]
    assert [each["id"] for each in after["active"]] == [new["id"]]
    await log.refuse("retireWebhookSecret", endpointId=endpoint, secretId=new["id"])


INBOUND = {"name": "Forms", "verifier": "HMAC_SHA256", "secret": SECRET, "eventType": "form.sent"}


@case("saveInboundEndpoint")
async def _save_inbound_endpoint(log: Log) -> None:
    made, entry = await log.one("saveInboundEndpoint", "endpoint { id }", input=INBOUND)
    endpoint, shown = made["endpoint"]["id"], {**INBOUND, "secret": "***"}
    assert entry == ("inbound_endpoint.created", endpoint, None, shown)
    await log.nothing("saveInboundEndpoint", input={"id": endpoint, "secret": SECRET})
    _, entry = await log.one("saveInboundEndpoint", input={"id": endpoint, "secret": f"{SECRET}-2"})
    assert entry == ("inbound_endpoint.updated", endpoint, shown, {**shown, "secret": "*** (changed)"})
    _, entry = await log.one("saveInboundEndpoint", input={"id": endpoint, "name": "Letters"})
    assert entry == ("inbound_endpoint.updated", endpoint, shown, {**shown, "name": "Letters"})
    await log.refuse("saveInboundEndpoint", input={"id": endpoint, "name": ""})


@case("deleteInboundEndpoint")
async def _delete_inbound_endpoint(log: Log) -> None:
    endpoint = await log.make("saveInboundEndpoint", "endpoint", input=INBOUND)
    _, entry = await log.one("deleteInboundEndpoint", id=endpoint)
    assert entry == ("inbound_endpoint.deleted", endpoint, {**INBOUND, "secret": "***"}, None)
    await log.refuse("deleteInboundEndpoint", id=endpoint)


@case("updateProjectSettings")
async def _update_project_settings(log: Log) -> None:
    _, (action, subject, before, after) = await log.one("updateProjectSettings", input={"defaultLocale": "de"})
    assert (action, subject) == ("project_settings.updated", write_node_id(NodeKind.PROJECT, log.shop.project_id))
    assert (before["defaultLocale"], after) == ("en", {**before, "defaultLocale": "de"})
    await log.nothing("updateProjectSettings", input={"defaultLocale": "de"})
    await log.refuse("updateProjectSettings", input={"defaultLocale": "?"})


DOCUMENT = {"name": "Who", "document": "query Who { viewer { role } }"}


@case("saveTrustedDocuments")
async def _save_trusted_documents(log: Log) -> None:
    made, entry = await log.one("saveTrustedDocuments", "trustedDocuments { id }", documents=[DOCUMENT])
    document = made["trustedDocuments"][0]["id"]
    assert entry == ("trusted_document.created", document, None, DOCUMENT)
    await log.nothing("saveTrustedDocuments", documents=[DOCUMENT])
    renamed = {**DOCUMENT, "name": "Me"}
    _, entry = await log.one("saveTrustedDocuments", documents=[renamed])
    assert entry == ("trusted_document.updated", document, DOCUMENT, renamed)
    await log.refuse("saveTrustedDocuments", documents=[{"name": "No", "document": "{ nothing }"}])


@case("deleteTrustedDocument")
async def _delete_trusted_document(log: Log) -> None:
    made = await log.run("saveTrustedDocuments", "trustedDocuments { id }", documents=[DOCUMENT])
    document = made["trustedDocuments"][0]["id"]
    _, entry = await log.one("deleteTrustedDocument", id=document)
    assert entry == ("trusted_document.deleted", document, DOCUMENT, None)
    await log.refuse("deleteTrustedDocument", id=document)


MEMBER = {"email": "ada@shop.example", "role": "EDITOR"}


async def _member(log: Log) -> tuple[str, Entry]:
    """Somebody whom a member adds: keys may not."""
    log.shop = await log.shop.as_member(Role.ADMIN)
    made, entry = await log.one("addMember", "member { id } token", **MEMBER)
    log.secrets.add(made["token"])
    return made["member"]["id"], entry


@case("addMember")
async def _add_member(log: Log) -> None:
    member, entry = await _member(log)
    assert entry == ("member.added", member, None, MEMBER)
    assert log.shop.viewer is not None
    assert log.shop.viewer.actor.startswith("member:")
    await log.refuse("addMember", **MEMBER)


@case("removeMember")
async def _remove_member(log: Log) -> None:
    member, _ = await _member(log)
    _, entry = await log.one("removeMember", id=member)
    assert entry == ("member.removed", member, MEMBER, None)
    await log.refuse("removeMember", id=member)


async def _member_token(log: Log) -> tuple[str, str, Entry]:
    member, _ = await _member(log)
    made, entry = await log.one("createMemberToken", "memberToken { id } token", memberId=member)
    log.secrets.add(made["token"])
    return member, made["memberToken"]["id"], entry


@case("createMemberToken")
async def _create_member_token(log: Log) -> None:
    member, token, (action, subject, before, after) = await _member_token(log)
    assert (action, subject, before, after["memberId"]) == ("member_token.created", token, None, member)
    await log.refuse("createMemberToken", memberId="mbr_x")


@case("revokeMemberToken")
async def _revoke_member_token(log: Log) -> None:
    member, token, _ = await _member_token(log)
    _, (action, subject, before, after) = await log.one("revokeMemberToken", id=token)
    assert (action, subject, before["memberId"], after) == ("member_token.revoked", token, member, None)
    await log.refuse("revokeMemberToken", id=token)


@case("rotateIdentitySecret")
async def _rotate_identity_secret(log: Log) -> None:
    made, (action, subject, before, after) = await log.one("rotateIdentitySecret", "secret")
    log.secrets.add(made["secret"])
    assert (action, subject) == ("identity_secret.rotated", write_node_id(NodeKind.PROJECT, log.shop.project_id))
    assert (before["count"], after["count"]) == (0, 1)
    await log.refuse("rotateIdentitySecret", graceSeconds=-1)


@case("setConsent")
async def _set_consent(log: Log) -> None:
    said = {"userId": "ada", "purpose": "EMAIL", "state": "REVOKED", "source": "settings page"}
    _, entry = await log.one("setConsent", input=said)
    before, after = {"purpose": "EMAIL", "state": "UNKNOWN"}, {"purpose": "EMAIL", "state": "REVOKED"}
    assert entry == ("consent.revoked", "user:ada", before, {**after, "source": "settings page"})
    await log.nothing("setConsent", input=said)
    await log.refuse("setConsent", input={**said, "state": "GRANTED", "source": ""})


@case("eraseProfile")
async def _erase_profile(log: Log) -> None:
    await log.shop.track(userId="ada")
    made, entry = await log.one("eraseProfile", "receipt { profileId }", input={"userId": "ada", "reason": "asked"})
    assert entry[:3] == ("profile.erased", made["receipt"]["profileId"], None)
    assert entry[3]["reason"] == "asked"
    await log.refuse("eraseProfile", input={"userId": "nobody", "reason": "asked"})


@pytest.mark.parametrize("mutation", sorted(CASES))
async def test_a_change_is_noted_once_and_without_secrets(
    gateway: Gateway, name_server: DnsPeer, mutation: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    log = Log(await gateway.tenant(), name_server)

    await CASES[mutation](log)

    assert log.noted > 0
    assert log.refused > 0
    assert all(f"`{action}`" in DOCUMENTATION for action in log.actions), log.actions
    async with gateway.services.database.connection() as connection:
        rows = await connection.fetchval("SELECT string_agg(a::text, E'\n') FROM audit_entries AS a")
    lines = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    for secret in log.secrets:
        assert len(secret) > 8
        assert secret not in rows
        assert secret not in lines


async def _noted(shop: Tenant) -> list[tuple[str, str, Any, Any]]:
    listed = await shop.data("{ auditLog { edges { node { actor action before after } } } }")
    nodes = [edge["node"] for edge in listed["auditLog"]["edges"]]
    return [(node["actor"], node["action"], node["before"], node["after"]) for node in nodes]


async def test_keys_that_the_server_makes_by_itself_are_noted_as_nobodys_doing(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    for _ in range(2):
        await shop.data("{ pushSettings { vapidPublicKey } }")
    made, *_ = await _noted(shop)
    secrets = {"privateKey": "***", "publicKey": "***"}
    assert made == ("system", "provider.created", None, {"kind": "WEB_PUSH", "settings": {}, "secrets": secrets})

    services = shop.gateway.services
    for _ in range(2):
        async with services.database.connection() as connection:
            now = services.clock.now()
            [secret] = await active_step_secrets(connection, services.vault, project_id=shop.project_id, now=now)
    made, *others = await _noted(shop)
    assert made[:3] == ("system", "workflow_secret.created", None)
    assert [each[1] for each in others] == ["provider.created", "project.created"]
    assert secret not in repr(made)


async def test_changes_at_once_each_begin_where_another_ended(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    document = "mutation ($id: ID, $name: String!) { saveBoard(input: {id: $id, name: $name}) { board { id } } }"
    board = (await shop.data(document, name="0"))["saveBoard"]["board"]["id"]

    await asyncio.gather(*(shop.data(document, id=board, name=str(number)) for number in range(1, 9)))

    noted = [(before["name"], after["name"]) for _, action, before, after in await _noted(shop) if before is not None]
    following, name, walked = dict(noted), "0", []
    while name in following:
        name = following[name]
        walked.append(name)
    assert sorted(walked) == [str(number) for number in range(1, 9)]
    [held] = (await shop.data("{ boards { name } }"))["boards"]
    assert held["name"] == walked[-1]


async def test_of_many_who_delete_it_one_is_noted(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    made = await shop.data('mutation { saveBoard(input: {name: "Sales"}) { board { id } } }')
    document = "mutation ($id: ID!) { deleteBoard(id: $id) { deletedId } }"
    board = made["saveBoard"]["board"]["id"]
    await asyncio.gather(*(shop.data(document, id=board) for _ in range(4)))
    assert [action for _, action, _, _ in await _noted(shop)].count("board.deleted") == 1


SIGN_UP = """mutation ($email: String!, $password: String!) {
  signUp(input: {email: $email, password: $password}) { session { accessToken refreshToken } userErrors { code } }
}"""


async def test_what_signs_people_in_is_in_no_line_and_in_no_entry(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shop = await gateway.tenant()
    made = (await shop.data(SIGN_UP, email="ada@shop.example", password=SECRET))["signUp"]
    again = (await shop.data(SIGN_UP.replace("signUp", "signIn"), email="ada@shop.example", password=SECRET))["signIn"]
    await shop.data(SIGN_UP.replace("signUp", "signIn"), email="ada@shop.example", password=f"{SECRET}-2")
    document = "mutation ($t: String!) { refreshSession(refreshToken: $t) { session { refreshToken } } }"
    await shop.data(document, t=again["session"]["refreshToken"])
    await shop.data(document.replace("refreshSession", "signOut"), t=made["session"]["refreshToken"])

    lines = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    noted = repr(await _noted(shop))
    for secret in (SECRET, *made["session"].values(), *again["session"].values()):
        assert secret not in lines
        assert secret not in noted
    assert "ada@shop.example" not in lines
