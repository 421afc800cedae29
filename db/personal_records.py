"""Everything that is kept of a person, record by record: what an export gives out.

Guarantees: each record is given once, by its key, however many pages it takes, and never what proves who somebody is
(hashes of passwords and tokens, sealed secrets) nor who else had to do with it (staff who changed something).
Leaves to others: which tables there are (`engine.erasure.registry`), and who may ask.

Where a statement is composed here, its text is made of constants; whatever a caller supplies is a parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

if TYPE_CHECKING:
    import asyncpg

_EVENTS = """
    SELECT e.seq FROM events AS e
    WHERE e.project_id = $1
        AND (e.user_id = ANY($2) OR (e.user_id IS NULL AND e.anonymous_id = ANY($3)))"""
_THEIR_RUNS = f"(t.user_id = ANY($2) OR (t.user_id IS NULL AND t.event_seq IN ({_EVENTS})))"
_RUNS = f"""
    SELECT t.run_id FROM workflow_runs AS t
    WHERE t.project_id = $1 AND {_THEIR_RUNS}"""  # noqa: S608
_THEIR_DELIVERIES = f"""(
    t.user_id = ANY($2)
    OR (t.user_id IS NULL AND t.recipient IS NOT NULL AND lower(t.recipient) = ANY($4))
    OR (t.user_id IS NULL AND t.event_seq IN ({_EVENTS}))
    OR t.workflow_run_id IN ({_RUNS})
)"""
_DELIVERIES = f"""
    SELECT t.delivery_id FROM deliveries AS t
    WHERE t.project_id = $1 AND {_THEIR_DELIVERIES}"""  # noqa: S608
_BATCHES = f"""
    SELECT t.batch_id FROM deliveries AS t
    WHERE t.project_id = $1 AND {_THEIR_DELIVERIES}"""  # noqa: S608
_SESSIONS = """
    SELECT s.session_id FROM sessions AS s
    WHERE s.project_id = $1 AND (s.user_id = ANY($2) OR s.taken_over_by = ANY($2))"""
_DEVICES = """
    SELECT d.push_token_id FROM push_tokens AS d
    WHERE d.project_id = $1 AND d.user_id = ANY($2)"""
_ACTOR = """jsonb_build_object(
    'actor', CASE WHEN substr(t.actor, 6) = ANY($2) AND t.actor LIKE 'user:%' THEN t.actor ELSE 'other' END
)"""
"""Who changed it is somebody else's business, unless it was the person."""


class PersonIds(msgspec.Struct, frozen=True, kw_only=True):
    """Whose records: ids, addresses in lower case, and what failures to sign in are counted under."""

    project_id: UUID
    user_ids: Sequence[str]
    anonymous_ids: Sequence[str]
    addresses: Sequence[str]
    accounts: Sequence[bytes]


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A table with people in it. `kind` names its records, `keys` are its columns with their types that tell a
    person's records apart, and put them in order; `withheld` are columns that nobody is given."""

    kind: str
    table: str
    keys: tuple[tuple[str, str], ...]
    where: str
    withheld: tuple[str, ...] = ()
    instead: str | None = None


class PersonalRecord(msgspec.Struct, frozen=True):
    """One record, as a JSON object, and where it stands in its source."""

    key: tuple[str, ...]
    record: msgspec.Raw


SOURCES: tuple[Source, ...] = (
    Source(kind="profile", table="profiles", keys=(("user_id", "text"),), where="t.user_id = ANY($2)"),
    Source(
        kind="identityLink",
        table="identity_links",
        keys=(("kind", "text"), ("alias", "text")),
        where="t.user_id = ANY($2)",
    ),
    Source(
        kind="user",
        table="users",
        keys=(("user_id", "text"),),
        where="t.user_id = ANY($2)",
        withheld=("password_hash", "sealed_totp_secret", "totp_step", "recovery_code_hashes"),
    ),
    Source(
        kind="session",
        table="sessions",
        keys=(("session_id", "uuid"),),
        where="(t.user_id = ANY($2) OR t.taken_over_by = ANY($2))",
    ),
    Source(
        kind="refreshToken",
        table="refresh_tokens",
        keys=(("session_id", "uuid"), ("token_hash", "bytea")),
        where=f"t.session_id IN ({_SESSIONS})",
        withheld=("token_hash",),
    ),
    Source(
        kind="signInFailures",
        table="sign_in_failures",
        keys=(("subject", "bytea"),),
        where="t.subject = ANY($5)",
        withheld=("subject",),
    ),
    Source(
        kind="consent",
        table="consents",
        keys=(("user_id", "text"), ("purpose", "text")),
        where="t.user_id = ANY($2)",
    ),
    Source(
        kind="consentChange",
        table="consent_changes",
        keys=(("seq", "bigint"),),
        where="t.user_id = ANY($2)",
        withheld=("salt", "commitment", "hash"),
        instead=_ACTOR,
    ),
    Source(
        kind="pushToken",
        table="push_tokens",
        keys=(("push_token_id", "uuid"),),
        where="t.user_id = ANY($2)",
    ),
    Source(
        kind="liveActivity",
        table="live_activities",
        keys=(("live_activity_id", "uuid"),),
        where=f"t.push_token_id IN ({_DEVICES})",
    ),
    Source(
        kind="pushReservation",
        table="push_reservations",
        keys=(("at", "timestamptz"), ("delivery_id", "uuid"), ("message_id", "uuid")),
        where=f"(t.user_id = ANY($2) OR t.delivery_id IN ({_DELIVERIES}))",
    ),
    Source(
        kind="suppression",
        table="suppressions",
        keys=(("channel", "text"), ("address", "text")),
        where="t.address = ANY($4)",
    ),
    Source(
        kind="delivery",
        table="deliveries",
        keys=(("delivery_id", "uuid"),),
        where=_THEIR_DELIVERIES,
        withheld=("lease_token", "lease_until", "dispatch_key"),
    ),
    Source(
        kind="deliveryAttempt",
        table="delivery_attempts",
        keys=(("delivery_id", "uuid"), ("number", "integer")),
        where=f"t.delivery_id IN ({_DELIVERIES})",
        withheld=("signature_header",),
    ),
    Source(
        kind="deliveryTransition",
        table="delivery_transitions",
        keys=(("seq", "bigint"),),
        where=f"t.delivery_id IN ({_DELIVERIES})",
    ),
    Source(
        kind="sendBatch",
        table="send_batches",
        keys=(("batch_id", "uuid"),),
        where=f"""(
            t.batch_id IN ({_BATCHES})
            OR t.progress #>> '{{delivery_filter,user_id}}' = ANY($2)
            OR t.progress ->> 'after' = ANY($2)
            OR t.progress -> 'taken_users' ?| $2
            OR t.progress -> 'taken_addresses' ?| $4
        )""",
        # What others were sent in the same batch is theirs.
        withheld=("idempotency_key", "request_hash", "progress", "queued", "scheduled", "suppressed"),
    ),
    Source(
        kind="workflowRun",
        table="workflow_runs",
        keys=(("run_id", "uuid"),),
        where=_THEIR_RUNS,
        withheld=("lease_token", "lease_until"),
    ),
    Source(
        kind="workflowRunStep",
        table="workflow_run_steps",
        keys=(("run_id", "uuid"), ("number", "integer")),
        where=f"t.run_id IN ({_RUNS})",
    ),
    Source(
        kind="workflowRunUpdate",
        table="workflow_run_updates",
        keys=(("seq", "bigint"),),
        where=f"t.run_id IN ({_RUNS})",
    ),
    Source(
        kind="audienceMembership",
        table="audience_members",
        keys=(("audience_id", "uuid"), ("user_id", "text")),
        where="t.user_id = ANY($2)",
    ),
    Source(
        kind="audienceRecheck",
        table="audience_rechecks",
        keys=(("user_id", "text"),),
        where="t.user_id = ANY($2)",
    ),
    Source(
        kind="audienceChange",
        table="audience_changes",
        keys=(("seq", "bigint"),),
        where="t.user_id = ANY($2)",
    ),
    Source(
        kind="auditEntry",
        table="audit_entries",
        keys=(("audit_entry_id", "uuid"),),
        where=(
            "(t.user_id = ANY($2) OR t.actor = ANY(ARRAY(SELECT 'user:' || u FROM unnest($2) AS u))"
            " OR t.subject = ANY(ARRAY(SELECT 'user:' || u FROM unnest($2) AS u)))"
        ),
        instead=_ACTOR,
    ),
    # Where work that goes on page by page stands at the person.
    Source(
        kind="audienceProgress",
        table="audiences",
        keys=(("audience_id", "uuid"),),
        where="t.built_up_to = ANY($2)",
        withheld=("conditions", "created_at", "updated_at", "deleted_at", "revision", "is_building"),
    ),
    Source(
        kind="workflowProgress",
        table="workflows",
        keys=(("workflow_id", "uuid"),),
        where="t.enrolled_up_to = ANY($2)",
        withheld=(
            "is_active",
            "is_paused",
            "version",
            "after_seq",
            "pending_change",
            "next_due_at",
            "created_at",
            "updated_at",
            "deleted_at",
        ),
    ),
    Source(
        kind="event",
        table="events",
        keys=(("seq", "bigint"),),
        where="(t.user_id = ANY($2) OR (t.user_id IS NULL AND t.anonymous_id = ANY($3)))",
        withheld=("batch_token",),
    ),
)
"""In the order of an export: the longest last."""


async def read_personal_records(
    connection: asyncpg.Connection, source: Source, person: PersonIds, *, after: Sequence[str] | None, limit: int
) -> list[PersonalRecord]:
    """Up to `limit` records of a source behind a key, by key."""
    rows = await connection.fetch(
        personal_records_sql(source),
        person.project_id,
        person.user_ids,
        person.anonymous_ids,
        person.addresses,
        person.accounts,
        None if after is None else list(after),
        limit,
        ["project_id", *source.withheld],
    )
    return [PersonalRecord(tuple(row["key"]), msgspec.Raw(row["record"].encode())) for row in rows]


def personal_records_sql(source: Source) -> str:
    """The statement. Everything that it may refer to is given with its type, whether it does or not."""
    keys = ", ".join(f"t.{name}" for name, _ in source.keys)
    texts = ", ".join(f"CAST(t.{name} AS text)" for name, _ in source.keys)
    after = ", ".join(f"CAST(($6)[{place}] AS {kind})" for place, (_, kind) in enumerate(source.keys, 1))
    instead = "" if source.instead is None else f" || {source.instead}"
    return f"""
        WITH given AS (
            SELECT CAST($2 AS text[]), CAST($3 AS text[]), CAST($4 AS text[]), CAST($5 AS bytea[]), CAST($6 AS text[])
        )
        SELECT ARRAY[{texts}] AS key, (to_jsonb(t) - CAST($8 AS text[])){instead} AS record
        FROM {source.table} AS t
        WHERE t.project_id = $1 AND {source.where} AND ($6 IS NULL OR ({keys}) > ({after}))
        ORDER BY {keys}
        LIMIT $7"""  # noqa: S608
