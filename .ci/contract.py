#!/usr/bin/env python3
"""What is still missing from the public contract, and whether anything delivered breaks it.

`contract.py CHECK` runs the contract's own CHECK on `schema/schema.graphql` and reads what it prints. It prints what
later work owes, and exits 1 for everything else: a delivered root or type that was renamed, removed or narrowed, and a
thing that is listed as owed although it is there. So whoever delivers something takes it off `OWED` and adds its roots
to `DELIVERED`, and from then on it cannot break unnoticed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SDL = Path(__file__).parent.parent / "schema" / "schema.graphql"

DELIVERED = frozenset(
    """
    Query.projectSettings Mutation.updateProjectSettings Mutation.rotateIdentitySecret
    Query.consentLog Mutation.setConsent
    Query.viewer Query.node Query.nodes Query.events Query.eventTypes Query.profile Query.profiles
    Mutation.track Mutation.trackBatch Mutation.identify
    Mutation.signInAnonymously Mutation.signUp Mutation.signIn Mutation.refreshSession Mutation.signOut
    Mutation.createProject Mutation.createApiKey Mutation.revokeApiKey
    Query.deliveries Query.deliveryStats Query.deliveryHealth
    Mutation.cancelDelivery Mutation.replayDelivery Mutation.replayDeliveries
    Query.pushTokens Query.pushSettings Mutation.registerPushToken Mutation.unregisterPushToken
    Mutation.updatePushSettings Mutation.sendPush Mutation.sendTestPush Mutation.trackPush
    Query.providers Mutation.configureProvider Mutation.deleteProvider Mutation.sendSms
    Query.inboundEndpoints Mutation.saveInboundEndpoint Mutation.deleteInboundEndpoint
    Query.templates Mutation.saveTemplate Mutation.deleteTemplate Query.senderDomains Mutation.addSenderDomain
    Mutation.verifySenderDomain Mutation.sendEmail
    Subscription.eventStream Subscription.deliveryUpdates Subscription.audienceChanges
    Query.webhookEndpoints Mutation.saveWebhookEndpoint Mutation.deleteWebhookEndpoint
    Mutation.rotateWebhookSecret Mutation.retireWebhookSecret Mutation.sendTestWebhook
    Query.exportWorkflows Mutation.importWorkflows
    Query.workflowBlueprints Mutation.testRunWorkflow Query.workflows Mutation.saveWorkflow Mutation.setWorkflowActive
    Mutation.deleteWorkflow Mutation.pauseWorkflow Mutation.resumeWorkflow Mutation.cloneBlueprint
    Query.workflowRuns Mutation.pauseWorkflowRun Mutation.resumeWorkflowRun Mutation.cancelWorkflowRun
    Subscription.workflowRunUpdates
    Query.audiences Mutation.saveAudience Mutation.deleteAudience
    Query.funnel Subscription.funnelUpdates Query.retention Query.trend
    Query.insights Query.boards Mutation.saveInsight Mutation.deleteInsight Mutation.saveBoard Mutation.deleteBoard
    Query.auditLog Mutation.eraseProfile
    """.split()  # noqa: SIM905
)
"""Root fields that are finished, with all types behind them but for what `OWED` names."""

OWED: dict[str, str] = {}
"""Roots, types and fields of types that later work delivers, by the work that owes them."""

_REMOVED = re.compile(r"(?:Field |Standard scalar )?(\w+(?:\.\w+)?) was removed")


def main(check: str) -> int:
    """0 when only what is owed is missing."""
    breaks = _breaks(check)
    removed = {match[1] for line in breaks if (match := _REMOVED.match(line))}
    faults = [line for line in breaks if not _is_owed(line)]
    faults += [f"{name} is there: take it off OWED in {Path(__file__).name}" for name in sorted(_owed() - removed)]
    faults += [f"{name} is listed as delivered and as owed" for name in sorted(_owed() & DELIVERED)]
    faults += [f"{name} is listed as delivered and is not there" for name in sorted(DELIVERED & removed)]
    for work, names in OWED.items():
        roots = [name for name in names.split() if name.startswith(("Query.", "Mutation.", "Subscription."))]
        print(f"owed by {work}: {len(names.split())}, of them roots: {', '.join(roots)}")
    for fault in faults:
        print(f"BREAKS THE CONTRACT: {fault}")
    print(f"{len(DELIVERED)} roots delivered, {len(removed)} names missing, {len(faults)} faults")
    return 1 if faults else 0


def _breaks(check: str) -> list[str]:
    """The lines of the contract's check, without its last one, which counts them."""
    ran = subprocess.run([sys.executable, check, str(SDL)], capture_output=True, text=True)  # noqa: S603
    lines = ran.stdout.splitlines()
    if ran.stderr or not lines or "breaks of a contract" not in lines[-1]:
        raise SystemExit(f"the contract's check did not run:\n{ran.stdout}{ran.stderr}")
    return lines[:-1]


def _is_owed(line: str) -> bool:
    match = _REMOVED.match(line)
    return match is not None and match[1] in _owed()


def _owed() -> frozenset[str]:
    return frozenset(name for names in OWED.values() for name in names.split())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
