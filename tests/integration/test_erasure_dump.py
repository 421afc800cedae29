"""Erased means gone: of a person who went through everything no value is left, in any table, in Redis, in memory."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis

from db.database import Database
from db.personal_records import SOURCES
from db.records import ProjectRecord
from engine.accounts.storms import subjects_of
from engine.dispatch.ledger import create_deliveries
from engine.erasure.erasing import ErasureRequest, Receipt, erase_person
from engine.erasure.exporting import export_person
from engine.erasure.registry import PERSONAL
from tests.integration.delivery_support import new_delivery
from tests.integration.graphql_support import Tenant, open_gateway

USER, RETIRED, DEVICE, DEVICE_ALONE = "usr-7f3a-ada", "anon-91c2-old", "dev-55e0-phone", "dev-66f1-laptop"
EMAIL, PHONE, TOKEN = "Ada.Unique-19@dump-shop.example", "+14155550132", "ab12cd34" * 8
TRAIT, PROPERTY, BODY, IP = "trait-lovelace-1815", "prop-engine-1843", "body-notes-on-the-engine", "203.0.113.77"
OUTPUT, RESPONSE, REASON, SESSION_DEVICE = (
    "out-bernoulli",
    "resp-thank-you-ada",
    "src-cookie-banner-ada",
    "the-phone-of-ada",
)
VALUES = (
    USER,
    RETIRED,
    DEVICE,
    DEVICE_ALONE,
    EMAIL,
    PHONE,
    TOKEN,
    TRAIT,
    PROPERTY,
    BODY,
    IP,
    OUTPUT,
    RESPONSE,
    REASON,
    SESSION_DEVICE,
)


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Tenant]:
    async with open_gateway(database_url) as gateway:
        yield await gateway.tenant()


def forms(value: str) -> list[bytes]:
    """How a value may be written: as it is, in lower case, in hexadecimal, in base64, as JSON, and as a plain hash."""
    found = []
    for text in {value, value.lower()}:
        raw = text.encode()
        found += [raw, raw.hex().encode(), base64.b64encode(raw).rstrip(b"=")[:-1], msgspec.json.encode(text)[1:-1]]
        digest = hashlib.sha256(raw)
        found += [digest.hexdigest().encode(), base64.b64encode(digest.digest())]
    return found


async def dump(url: str) -> dict[str, bytes]:
    """Every table of every schema of ours as text, as pg_dump writes it."""
    connection = await asyncpg.connect(url)
    tables = await connection.fetch(
        """SELECT n.nspname AS family, c.relname AS name
           FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
           WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')"""
    )
    found = {}
    for table in tables:
        out = io.BytesIO()
        await connection.copy_from_table(table["name"], schema_name=table["family"], output=out)
        found[table["name"]] = out.getvalue()
    await connection.close()
    return found


def traces(tables: dict[str, bytes], values: Sequence[str] = VALUES) -> set[tuple[str, str]]:
    """Which values are left where."""
    return {
        (name, value) for name, text in tables.items() for value in values if any(form in text for form in forms(value))
    }


async def live(tenant: Tenant, project: ProjectRecord) -> None:
    """A life: something in every table that may hold somebody, by way of the API where there is one."""
    database = tenant.gateway.services.database
    await tenant.track(userId=RETIRED, anonymousId=DEVICE_ALONE, properties={"note": PROPERTY})
    event = await tenant.track(userId=USER, anonymousId=DEVICE, properties={"note": PROPERTY}, context={"ip": IP})
    alone = await tenant.track(anonymousId=DEVICE, properties={"note": PROPERTY}, id=f"key-{PROPERTY}")
    await tenant.data(
        """mutation ($user: String!, $traits: JSON!) {
          identify(input: {userId: $user, traits: $traits}) { userErrors { code } }
        }""",
        user=USER,
        traits={"email": EMAIL, "phone": PHONE, "note": TRAIT},
    )
    await tenant.data(
        """mutation ($token: String!, $user: String!) {
          registerPushToken(input: {platform: IOS, token: $token, userId: $user}) { userErrors { code } }
        }""",
        token=TOKEN,
        user=USER,
    )
    await tenant.data(
        """mutation ($user: String!, $body: String!, $key: String!) {
          sendPush(input: {userIds: [$user], push: {title: $body, body: $body}, idempotencyKey: $key}) {
            userErrors { code }
          }
        }""",
        user=USER,
        body=BODY,
        key=f"welcome-{USER}",
    )
    await _write_rows(database, project, seq=event["seq"], alone=alone["seq"])


async def _write_rows(database: Database, project: ProjectRecord, *, seq: int, alone: int) -> None:
    """What only work under way writes, with the columns that it writes."""
    project_id, now = project.project_id, datetime.now(UTC)
    content = msgspec.json.encode({"note": BODY}).decode()
    workflow_id, runs, audience_id, batch_id = uuid4(), [uuid4(), uuid4()], uuid4(), uuid4()
    deliveries = [
        new_delivery(now, channel="EMAIL", dispatch_key="email", user_id=USER, recipient=EMAIL, content=content),
        new_delivery(now, channel="SMS", dispatch_key="sms", recipient=PHONE, content=content, batch_id=batch_id),
        new_delivery(now, channel="WEBHOOK", dispatch_key="https://x", event_seq=seq, content=content),
        new_delivery(now, channel="WEBHOOK", dispatch_key="https://x", event_seq=alone, content=content),
        new_delivery(now, channel="WEBHOOK", dispatch_key="https://x", workflow_run_id=runs[1], content=content),
    ]
    async with database.transaction() as connection:
        await create_deliveries(connection, project_id=project_id, deliveries=deliveries, now=now)
    account = subjects_of(project.salt, email=EMAIL.lower(), client=None)[0].key
    statements: list[tuple[str, list[object]]] = [
        ("INSERT INTO identity_links VALUES ($1, 'USER_ID', $2, $3, 1)", [RETIRED, USER]),
        (
            """INSERT INTO users (project_id, user_id, email, password_hash, created_at, signed_up_at)
               VALUES ($1, $2, $3, 'argon', $4, $4)""",
            [USER, EMAIL.lower(), now],
        ),
        (
            """INSERT INTO sessions (project_id, session_id, user_id, anonymous, device_id, created_at, last_used_at,
                                     expires_at) VALUES ($1, $2, $3, false, $4, $5, $5, $5)""",
            [uuid4(), USER, SESSION_DEVICE, now],
        ),
        (
            """INSERT INTO sessions (project_id, session_id, user_id, anonymous, created_at, last_used_at, expires_at,
                                     ended_at, ended_reason, taken_over_by)
               VALUES ($1, $2, $3, true, $4, $4, $4, $4, 'TAKEN_OVER', $5)""",
            [uuid4(), RETIRED, now, USER],
        ),
        (
            """INSERT INTO refresh_tokens (project_id, token_hash, session_id, created_at)
               SELECT $1, sha256('x'), session_id, $2 FROM sessions WHERE project_id = $1 AND user_id = $3""",
            [now, USER],
        ),
        ("INSERT INTO sign_in_failures VALUES ($1, $2, 3, $3, $3)", [account, now]),
        ("INSERT INTO consents VALUES ($1, $2, 'EMAIL', 'GRANTED', $3, $4)", [USER, REASON, now]),
        (
            """INSERT INTO consent_changes VALUES ($1, 900, $2, $3, $4, $5, sha256('salt'), 'EMAIL', 'UNKNOWN',
                                                   'GRANTED', $6, sha256('c'), sha256('h'))""",
            [uuid4(), USER, REASON, f"user:{USER}", now],
        ),
        (
            """INSERT INTO live_activities SELECT $1, gen_random_uuid(), push_token_id, $2, 'Ride', $3, 'ACTIVE', $4, $4
               FROM push_tokens WHERE project_id = $1""",
            [TRAIT, TOKEN, now],
        ),
        ("INSERT INTO push_reservations VALUES ($1, gen_random_uuid(), NULL, $2, gen_random_uuid(), $3)", [USER, now]),
        ("INSERT INTO suppressions VALUES ($1, 'EMAIL', $2, 'UNSUBSCRIBED', NULL, $3)", [EMAIL.lower(), now]),
        ("INSERT INTO suppressions VALUES ($1, 'SMS', $2, 'BOUNCED', NULL, $3)", [PHONE, now]),
        (
            """INSERT INTO delivery_attempts (project_id, delivery_id, number, at, duration_ms, response_body)
               SELECT $1, delivery_id, 1, $2, 5, $3 FROM deliveries WHERE project_id = $1""",
            [now, RESPONSE],
        ),
        (
            """INSERT INTO send_batches (project_id, batch_id, kind, idempotency_key, progress, created_at, continue_at)
               VALUES ($1, $2, 'PUSH', $3, CAST($4 AS text)::jsonb, $5, $5)""",
            [
                uuid4(),
                "other",
                msgspec.json.encode(
                    {"after": USER, "taken_users": [USER, "bob"], "taken_addresses": [EMAIL.lower()]}
                ).decode(),
                now,
            ],
        ),
        (
            """INSERT INTO send_batches (project_id, batch_id, kind, idempotency_key, created_at)
               VALUES ($1, $2, 'SMS', $3, $4)""",
            [batch_id, f"code-{PHONE}", now],
        ),
        (
            """INSERT INTO send_batches (project_id, batch_id, kind, progress, created_at)
               VALUES ($1, $2, 'REPLAY', CAST($3 AS text)::jsonb, $4)""",
            [uuid4(), msgspec.json.encode({"delivery_filter": {"user_id": USER}}).decode(), now],
        ),
        (
            """INSERT INTO audiences (project_id, audience_id, name, conditions, created_at, updated_at, built_up_to)
               VALUES ($1, $2, 'all', '[]', $3, $3, $4)""",
            [audience_id, now, USER],
        ),
        ("INSERT INTO audience_members VALUES ($1, $2, $3, $4)", [audience_id, USER, now]),
        ("INSERT INTO audience_rechecks VALUES ($1, $2, $3)", [USER, now]),
        ("INSERT INTO audience_changes VALUES ($1, 1, $2, $3, true, $4)", [audience_id, USER, now]),
        ("UPDATE heads SET head = 1 WHERE project_id = $1 AND lane = 4", []),
        (
            """INSERT INTO workflows (project_id, workflow_id, name, version, created_at, updated_at, enrolled_up_to)
               VALUES ($1, $2, 'w', 1, $3, $3, $4)""",
            [workflow_id, now, USER],
        ),
        ("INSERT INTO workflow_versions VALUES ($1, $2, 1, '{}', $3)", [workflow_id, now]),
        (
            """INSERT INTO workflow_runs (project_id, run_id, workflow_id, version, status, user_id, event_seq, step,
                                          vars, started_at)
               SELECT $1, run.id, $2, 1, 'FAILED', run.person, run.seq, 0, CAST($6 AS text)::jsonb, $7
               FROM unnest(CAST($3 AS uuid[]), CAST($4 AS text[]), CAST($5 AS bigint[])) AS run (id, person, seq)""",
            [workflow_id, runs, [USER, None], [seq, alone], f'{{"x":"{OUTPUT}"}}', now],
        ),
        (
            """INSERT INTO workflow_run_steps (project_id, run_id, number, workflow_id, step, label, type, input,
                                               output, started_at)
               SELECT $1, run_id, 1, $2, 0, 'a', 'AI_ACTION', CAST($3 AS text)::jsonb, CAST($3 AS text)::jsonb, $4
               FROM workflow_runs WHERE project_id = $1""",
            [workflow_id, f'{{"x":"{OUTPUT}"}}', now],
        ),
        (
            """INSERT INTO workflow_run_updates (project_id, seq, run_id, workflow_id, user_id, status, step, at,
                                                 started_at)
               SELECT $1, row_number() OVER (), run_id, $2, user_id, 'FAILED', CAST($3 AS text)::jsonb, $4, $4
               FROM workflow_runs WHERE project_id = $1""",
            [workflow_id, f'{{"x":"{OUTPUT}"}}', now],
        ),
        ("UPDATE heads SET head = 2 WHERE project_id = $1 AND lane = 3", []),
        (
            """INSERT INTO audit_entries
               VALUES ($1, $2, $3, $4, 'consent.set', $4, NULL, CAST($5 AS text)::jsonb, $6)""",
            [uuid4(), now, f"user:{USER}", f'{{"source":"{REASON}"}}', USER],
        ),
    ]
    async with database.transaction() as connection:
        for statement, values in statements:
            await connection.execute(statement, project_id, *values)


async def test_of_an_erased_person_no_value_is_left(shop: Tenant, database_url: str, redis_url: str) -> None:
    assert shop.viewer is not None
    services, project = shop.gateway.services, shop.viewer.project
    await live(shop, project)
    before = await dump(database_url)
    held = traces(before)
    assert {value for _, value in held} == set(VALUES) - {IP}
    partitioned = {"events", "delivery_transitions", "workflow_run_updates", "audience_changes"}
    named = {name for name, _ in held} | {
        table for table in partitioned if any(name.startswith(f"{table}_") for name, _ in held)
    }
    # These two name nobody by a value: a hash, and an id.
    assert named >= PERSONAL - {"sign_in_failures", "refresh_tokens", "delivery_transitions"}
    async with services.database.connection() as connection:
        exported = await export_person(connection, project, USER, after=None, first=1000)
    kinds = {msgspec.json.decode(line)["kind"] for line in exported.lines.splitlines()}
    assert kinds == {source.kind for source in SOURCES}

    receipt = await erase_person(
        services.database,
        services.announce,
        project_id=shop.project_id,
        request=ErasureRequest(user_id=USER, reason="asked for by letter", actor="api_key:sk_us"),
        now=services.clock.now(),
    )

    assert isinstance(receipt, Receipt)
    after = await dump(database_url)
    assert traces(after) == set()
    assert len(after["sign_in_failures"]) == len(after["refresh_tokens"]) == 0
    async with services.database.connection() as connection:
        exported = await export_person(connection, project, USER, after=None, first=1000)
    assert (exported.lines, exported.count, exported.has_next) == ("", 0, False)
    async with Redis.from_url(redis_url) as redis:
        kept = [each async for each in redis.scan_iter()] + [
            await redis.dump(each) or b"" async for each in redis.scan_iter()
        ]
    assert not any(form in each for each in kept for value in VALUES for form in forms(value))
