"""Settings of a project: who reads and changes them, and that they hold where a constant used to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from db.filters import Condition, ConditionOperator
from db.profiles import list_profiles
from db.push_settings import PushSettingsRecord
from engine.consent import ConsentState
from engine.dispatch.recipients import lock_standings
from engine.dispatch.values import Channel, LocalizedPush, PushContent, PushNotification
from engine.errors import NotFound
from engine.identity import Role
from engine.project_settings import MAX_AGE, ProjectSettingsCache, read_settings
from engine.push.policy import PolicyCase, PolicyToken, PutOff, Send, decide
from engine.push.standing import lock_standings as lock_push_standings
from engine.push.standing import rules_of
from engine.workflows.conditions import Subject, holds
from engine.workflows.definition import ReentryPolicy
from engine.workflows.starting import Entrant, admit
from tests.integration.graphql_support import Gateway, Tenant, open_gateway

READ = """{ projectSettings {
  requireSignedIdentity allowUnknownConsent defaultTimezone defaultLocale requireTrustedDocuments
} }"""
UPDATE = """mutation ($input: ProjectSettingsInput!) { updateProjectSettings(input: $input) {
  projectSettings {
    requireSignedIdentity allowUnknownConsent defaultTimezone defaultLocale requireTrustedDocuments
  }
  userErrors { code path }
} }"""
DEFAULTS = {
    "requireSignedIdentity": False,
    "allowUnknownConsent": True,
    "defaultTimezone": "UTC",
    "defaultLocale": "en",
    "requireTrustedDocuments": False,
}


@pytest.fixture
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    async with open_gateway(database_url) as opened:
        yield opened


async def update(tenant: Tenant, **given: Any) -> Any:
    return (await tenant.data(UPDATE, input=given))["updateProjectSettings"]


async def test_what_is_absent_stays_and_null_goes_back_to_the_default(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    assert (await shop.data(READ))["projectSettings"] == DEFAULTS

    chosen = {
        "requireSignedIdentity": True,
        "allowUnknownConsent": False,
        "defaultTimezone": "Asia/Tokyo",
        "defaultLocale": "pt-BR",
        "requireTrustedDocuments": True,
    }
    assert await update(shop, **chosen) == {"projectSettings": chosen, "userErrors": []}
    assert (await update(shop, defaultTimezone=None))["projectSettings"] == chosen | {"defaultTimezone": "UTC"}
    cleared = await update(shop, **dict.fromkeys(chosen))
    assert cleared["projectSettings"] == (await shop.data(READ))["projectSettings"] == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("defaultTimezone", "Mars/Olympus"),
        ("defaultTimezone", "../etc/passwd"),
        ("defaultTimezone", ""),
        ("defaultLocale", "en_"),
        ("defaultLocale", "x" * 36),
        ("defaultLocale", ""),
    ],
)
async def test_what_is_no_zone_or_tag_is_refused_and_nothing_is_changed(
    gateway: Gateway, name: str, value: str
) -> None:
    shop = await gateway.tenant()
    refused = await update(shop, requireSignedIdentity=True, **{name: value})
    assert refused == {"projectSettings": None, "userErrors": [{"code": "INVALID", "path": ["input", name]}]}
    assert (await shop.data(READ))["projectSettings"] == DEFAULTS


async def test_admin_changes_viewer_reads_and_the_audit_log_tells(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    viewer, editor, app = [await shop.as_role(role) for role in (Role.VIEWER, Role.EDITOR, Role.INGEST)]
    assert await viewer.codes(READ) == []
    assert await app.codes(READ) == ["FORBIDDEN"]
    assert await editor.codes(UPDATE, input={"defaultLocale": "de"}) == ["FORBIDDEN"]

    await update(shop, defaultLocale="de")
    await update(shop, defaultLocale="de")

    log = await shop.data("{ auditLog { edges { node { actor action before after } } } }")
    told = [edge["node"] for edge in log["auditLog"]["edges"] if edge["node"]["action"] == "project_settings.updated"]
    assert shop.viewer is not None
    unset = DEFAULTS | {"allowUnknownConsent": None}
    assert told == [
        {
            "actor": shop.viewer.actor,
            "action": "project_settings.updated",
            "before": unset,
            "after": unset | {"defaultLocale": "de"},
        }
    ]


async def test_a_gateway_believes_what_it_read_for_a_second(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    now = [100.0]
    cache = ProjectSettingsCache(gateway.services.database, clock=lambda: now[0])
    assert not (await cache.read(shop.project_id)).require_signed_identity

    await update(shop, requireSignedIdentity=True)
    now[0] += MAX_AGE.total_seconds()
    assert not (await cache.read(shop.project_id)).require_signed_identity
    now[0] += 0.01
    assert (await cache.read(shop.project_id)).require_signed_identity
    assert MAX_AGE.total_seconds() <= 1
    with pytest.raises(NotFound):
        await cache.read(uuid4())


async def test_unknown_consent_means_what_the_project_says_wherever_it_is_asked(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    await shop.track(userId="ann")

    async def asked() -> list[bool]:
        project_id, now = shop.project_id, gateway.services.clock.now()
        async with gateway.services.database.transaction() as connection:
            mail = await lock_standings(
                connection, Channel.EMAIL, project_id=project_id, user_ids=["ann"], addresses=["ann@shop.example"]
            )
            push = await lock_push_standings(
                connection, project_id=project_id, user_ids=["ann"], message_ids=(), now=now
            )
            [decided] = push.decide(
                CONTENT, batch_id=None, user_id="ann", device=None, tokens=[PolicyToken(timezone=None)]
            )
            entrant = Entrant(uuid4(), 1, ReentryPolicy.ALWAYS, (), "ann")
            entered = await admit(connection, project_id=project_id, entrants=[entrant], now=now)
        return [mail.held_back("ann", "ann@shop.example") is None, isinstance(decided, Send), entered == [entrant]]

    assert await asked() == [True, True, True]
    await update(shop, allowUnknownConsent=False)
    assert await asked() == [False, False, False]


CONTENT = PushContent(
    message_id=uuid4(),
    push=PushNotification(title="Hello", body="You"),
    localized=(LocalizedPush(locale="de", push=PushNotification(title="Hallo", body="Du")),),
)


async def test_devices_that_did_not_say_theirs_have_the_projects_zone_and_locale(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    await update(shop, defaultTimezone="Asia/Tokyo", defaultLocale="de-AT")
    async with gateway.services.database.connection() as connection:
        settings = await read_settings(connection, project_id=shop.project_id)
    rules = rules_of(PushSettingsRecord(quiet_hours_start_local=22, quiet_hours_end_local=8), settings)

    def decided(at: datetime, token: PolicyToken) -> object:
        case = PolicyCase(
            content=CONTENT,
            person="ann",
            consent=ConsentState.GRANTED,
            unknown_allowed=True,
            tokens=[token],
            rules=rules,
            now=at,
        )
        return decide(case)[0]

    # Noon in Greenwich is nine in the evening in Tokyo, one o'clock is ten
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    sent = decided(noon, PolicyToken())
    assert isinstance(sent, Send)
    assert (sent.locale, sent.notification and sent.notification.title) == ("de", "Hallo")
    assert isinstance(decided(noon.replace(hour=13), PolicyToken()), PutOff)
    own = decided(noon.replace(hour=13), PolicyToken(timezone="Europe/London", locale="fr"))
    assert isinstance(own, Send)
    assert own.locale is None


@pytest.mark.parametrize(("traits", "is_today"), [({}, True), ({"timezone": "UTC"}, False), ({"timezone": "?"}, True)])
async def test_an_anniversary_is_a_day_of_the_projects_zone_for_who_has_none(
    gateway: Gateway, traits: dict[str, str], is_today: bool
) -> None:
    """In lists, as SQL, and in workflows, in Python."""
    shop = await gateway.tenant()
    await update(shop, defaultTimezone="Asia/Tokyo")
    await shop.track(userId="ann", traits={"birthday": "1990-05-02", **traits})
    now = datetime(2026, 5, 1, 20, tzinfo=UTC)
    condition = Condition(path="profile.traits.birthday", op=ConditionOperator.IS_ANNIVERSARY)
    async with gateway.services.database.connection() as connection:
        listed = await list_profiles(connection, project_id=shop.project_id, limit=5, where=(condition,), now=now)
        [profile] = (await list_profiles(connection, project_id=shop.project_id, limit=5)).profiles
        settings = await read_settings(connection, project_id=shop.project_id)

    subject = Subject(event=None, profile=profile, now=now, default_zone=settings.default_timezone)
    assert holds([condition], subject) is is_today
    assert [each.user_id for each in listed.profiles] == (["ann"] if is_today else [])
