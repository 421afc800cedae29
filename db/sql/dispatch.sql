-- name: find_candidates
-- Whether this transaction alone may claim for a project until it ends; the next dispatch keys (skip scan); their due.
-- Of each key up to its room, $7 where none is given; one of every key before the second of any, oldest first. A row for
-- each of them, and one for each key without any.
WITH RECURSIVE mine AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(hashtextextended(CAST(CAST($1 AS uuid) AS text), 1684632432)) AS is_mine
),
keys AS (
    (
        SELECT d.dispatch_key, d.next_attempt_at, 1 AS number
        FROM deliveries AS d
        WHERE (SELECT is_mine FROM mine) AND d.project_id = $1 AND d.next_attempt_at IS NOT NULL
            AND d.dispatch_key > $3
        ORDER BY d.project_id, d.dispatch_key, d.next_attempt_at
        LIMIT 1
    )
    UNION ALL
    SELECT following.dispatch_key, following.next_attempt_at, keys.number + 1
    FROM keys
    CROSS JOIN LATERAL (
        SELECT d.dispatch_key, d.next_attempt_at
        FROM deliveries AS d
        WHERE d.project_id = $1 AND d.next_attempt_at IS NOT NULL AND d.dispatch_key > keys.dispatch_key
        ORDER BY d.project_id, d.dispatch_key, d.next_attempt_at
        LIMIT 1
    ) AS following
    WHERE keys.number < $4
),
rooms AS MATERIALIZED (
    SELECT keys.dispatch_key, coalesce(given.room, $7) AS room
    FROM keys
    LEFT JOIN unnest(CAST($5 AS text[]), CAST($6 AS integer[])) AS given (dispatch_key, room)
        ON given.dispatch_key = keys.dispatch_key
    WHERE keys.next_attempt_at <= $2
),
due AS MATERIALIZED (
    SELECT oldest.delivery_id, oldest.number, rooms.dispatch_key
    FROM rooms
    CROSS JOIN LATERAL (
        SELECT d.delivery_id, row_number() OVER (ORDER BY d.next_attempt_at, d.delivery_id) AS number
        FROM deliveries AS d
        WHERE d.project_id = $1 AND d.dispatch_key = rooms.dispatch_key AND d.next_attempt_at <= $2
        ORDER BY d.next_attempt_at, d.delivery_id
        LIMIT $8
    ) AS oldest
    WHERE oldest.number <= rooms.room
    ORDER BY oldest.number, rooms.dispatch_key
    LIMIT $8
)
SELECT
    mine.is_mine, keys.dispatch_key AS key, keys.next_attempt_at <= $2 AS key_is_due,
    d.project_id, d.delivery_id, d.batch_id, d.channel, d.status, d.suppressed_reason, d.user_id, d.workflow_id,
    d.workflow_run_id, d.event_seq, d.event_type, d.endpoint_id, d.push_token_id, d.owner_generation, d.recipient,
    d.dispatch_key, d.content, d.payload, d.variant, d.locale, d.error_code, d.error_message, d.error_permanent,
    d.error_hint, d.attempt_count, d.retry_schedule, d.schedule_offset, d.provider_message_id, d.depth, d.created_at,
    d.scheduled_for, d.next_attempt_at, d.sent_at, d.delivered_at, d.opened_at, d.clicked_at, d.finished_at,
    d.repeatable, d.workflow_step_number
FROM mine
LEFT JOIN keys ON true
LEFT JOIN due ON due.dispatch_key = keys.dispatch_key
LEFT JOIN LATERAL (
    -- One look-up each, whatever the planner knows of the table.
    SELECT e.* FROM deliveries AS e
    WHERE e.project_id = $1 AND e.delivery_id = due.delivery_id
    LIMIT 1
) AS d ON true
ORDER BY due.number, keys.number;

-- name: lock_persons
-- Locks persons against changes of their consents, in the order of their ids.
SELECT user_id
FROM profiles
WHERE project_id = $1 AND user_id = ANY($2)
ORDER BY user_id COLLATE "C"
FOR SHARE;

-- name: move_deliveries
-- Gives what waits for an endpoint under the dispatch key $3 the key $4, up to so many; waits for nobody.
WITH locked AS MATERIALIZED (
    SELECT d.delivery_id
    FROM deliveries AS d
    WHERE d.project_id = $1 AND d.dispatch_key = $3 AND d.next_attempt_at IS NOT NULL AND d.endpoint_id = $2
    ORDER BY d.next_attempt_at, d.delivery_id
    LIMIT $5
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE deliveries AS d
SET dispatch_key = $4
FROM locked
WHERE d.project_id = $1 AND d.delivery_id = locked.delivery_id;

-- name: write_claims
-- Writes what was decided about candidates that are still as they were read; those that somebody holds are passed over.
-- With $20 their transitions too: the head of their lane is locked last.
WITH input AS MATERIALIZED (
    SELECT CAST($1 AS uuid) AS project_id, given.*
    FROM unnest(
        CAST($2 AS uuid[]), CAST($3 AS text[]), CAST($4 AS timestamptz[]), CAST($5 AS integer[]), CAST($6 AS text[]),
        CAST($7 AS timestamptz[]), CAST($8 AS text[]), CAST($9 AS text[]), CAST($10 AS text[]), CAST($11 AS text[]),
        CAST($12 AS boolean[]), CAST($13 AS text[]), CAST($14 AS text[]), CAST($15 AS boolean[]), CAST($16 AS text[])
    ) WITH ORDINALITY AS given (
        delivery_id, read_status, read_next_attempt_at, read_attempt_count, status, next_attempt_at, suppressed_reason,
        payload, variant, locale, repeatable, error_code, error_message, error_permanent, error_hint, ordinal
    )
),
locked AS MATERIALIZED (
    -- Joined by both columns: one look-up each, whatever the planner knows of the table.
    SELECT d.project_id, d.delivery_id
    FROM input AS i
    JOIN deliveries AS d ON d.project_id = i.project_id AND d.delivery_id = i.delivery_id
    WHERE d.next_attempt_at <= $17
    ORDER BY d.delivery_id
    FOR NO KEY UPDATE OF d SKIP LOCKED
),
written AS (
    UPDATE deliveries AS d
    SET status = i.status,
        suppressed_reason = i.suppressed_reason,
        payload = coalesce(CAST(i.payload AS jsonb), d.payload),
        variant = coalesce(i.variant, d.variant),
        locale = coalesce(i.locale, d.locale),
        repeatable = i.repeatable,
        error_code = CASE WHEN i.status = 'SENDING' THEN d.error_code ELSE i.error_code END,
        error_message = CASE WHEN i.status = 'SENDING' THEN d.error_message ELSE i.error_message END,
        error_permanent = CASE WHEN i.status = 'SENDING' THEN d.error_permanent ELSE i.error_permanent END,
        error_hint = CASE WHEN i.status = 'SENDING' THEN d.error_hint ELSE i.error_hint END,
        attempt_count = d.attempt_count + CASE WHEN i.status = 'SENDING' THEN 1 ELSE 0 END,
        next_attempt_at = i.next_attempt_at,
        scheduled_for = coalesce(i.next_attempt_at, d.scheduled_for),
        finished_at = CASE WHEN i.status IN ('SUPPRESSED', 'FAILED') THEN CAST($17 AS timestamptz) END,
        lease_token = CASE WHEN i.status = 'SENDING' THEN CAST($18 AS uuid) END,
        lease_until = CASE WHEN i.status = 'SENDING' THEN clock_timestamp() + CAST($19 AS interval) END
    FROM locked
    JOIN input AS i ON i.delivery_id = locked.delivery_id
    WHERE d.project_id = locked.project_id AND d.delivery_id = locked.delivery_id
        AND d.status = i.read_status AND d.next_attempt_at = i.read_next_attempt_at
        AND d.attempt_count = i.read_attempt_count
    RETURNING d.delivery_id, i.ordinal, i.read_status, d.status, d.attempt_count, d.batch_id, d.channel, d.user_id,
        d.workflow_id, d.workflow_run_id, d.endpoint_id, d.event_type, i.error_code, d.created_at
),
moved AS (
    UPDATE heads AS h
    SET head = h.head + items.count, changed_at = greatest(clock_timestamp(), h.changed_at)
    FROM (SELECT count(*) AS count FROM written) AS items
    WHERE $20 AND items.count > 0 AND h.project_id = $1 AND h.lane = 2
    RETURNING h.epoch, h.head - items.count AS previous_head
),
appended AS (
    INSERT INTO delivery_transitions (
        project_id, seq, delivery_id, from_status, to_status, at, attempt_number, batch_id, channel, user_id,
        workflow_id, workflow_run_id, endpoint_id, event_type, error_code, created_at
    )
    SELECT $1, moved.previous_head + row_number() OVER (ORDER BY written.ordinal), written.delivery_id,
        written.read_status, written.status, $17, CASE WHEN written.status = 'SENDING' THEN written.attempt_count END, written.batch_id,
        written.channel, written.user_id, written.workflow_id, written.workflow_run_id, written.endpoint_id,
        written.event_type, written.error_code, written.created_at
    FROM moved
    CROSS JOIN written
)
SELECT written.delivery_id, moved.epoch, moved.previous_head
FROM written
LEFT JOIN moved ON true;

-- name: write_settlements
-- Ends attempts whose lease is still held under its token, and keeps every attempt; gives what it ended.
-- With $21 their transitions too: the head of their lane is locked last.
WITH input AS MATERIALIZED (
    SELECT CAST($1 AS uuid) AS project_id, given.*
    FROM unnest(
        CAST($2 AS uuid[]), CAST($3 AS uuid[]), CAST($4 AS text[]), CAST($5 AS timestamptz[]), CAST($6 AS integer[]),
        CAST($7 AS integer[]), CAST($8 AS text[]), CAST($9 AS text[]), CAST($10 AS text[]), CAST($11 AS boolean[]),
        CAST($12 AS text[]), CAST($13 AS integer[]), CAST($14 AS timestamptz[]), CAST($15 AS integer[]),
        CAST($16 AS integer[]), CAST($17 AS text[]), CAST($18 AS text[])
    ) WITH ORDINALITY AS given (
        delivery_id, lease_token, status, next_attempt_at, attempt_count, schedule_offset, provider_message_id,
        error_code, error_message, error_permanent, error_hint, number, at, duration_ms, status_code, response_body,
        signature_header, ordinal
    )
),
locked AS MATERIALIZED (
    -- Joined by both columns: one look-up each, whatever the planner knows of the table.
    SELECT d.project_id, d.delivery_id
    FROM input AS i
    JOIN deliveries AS d ON d.project_id = i.project_id AND d.delivery_id = i.delivery_id
    ORDER BY d.delivery_id
    FOR NO KEY UPDATE OF d
),
ended AS (
    UPDATE deliveries AS d
    SET status = i.status,
        next_attempt_at = i.next_attempt_at,
        attempt_count = i.attempt_count,
        schedule_offset = i.schedule_offset,
        provider_message_id = coalesce(i.provider_message_id, d.provider_message_id),
        error_code = i.error_code,
        error_message = i.error_message,
        error_permanent = i.error_permanent,
        error_hint = i.error_hint,
        sent_at = CASE WHEN i.status IN ('SENT', 'DELIVERED') THEN CAST($19 AS timestamptz) ELSE d.sent_at END,
        delivered_at = CASE WHEN i.status = 'DELIVERED' THEN CAST($19 AS timestamptz) ELSE d.delivered_at END,
        finished_at = CASE WHEN i.next_attempt_at IS NULL THEN CAST($19 AS timestamptz) END,
        lease_token = NULL,
        lease_until = NULL
    FROM locked
    JOIN input AS i ON i.delivery_id = locked.delivery_id
    WHERE d.project_id = locked.project_id AND d.delivery_id = locked.delivery_id
        AND d.status = 'SENDING' AND d.lease_token = i.lease_token
    RETURNING d.delivery_id, i.lease_token, i.ordinal, d.status, i.number, d.batch_id, d.channel, d.user_id,
        d.workflow_id, d.workflow_run_id, d.endpoint_id, d.event_type, i.error_code, d.created_at
),
kept AS (
    INSERT INTO delivery_attempts AS a (
        project_id, delivery_id, number, at, duration_ms, status_code, response_body, signature_header, error_code,
        error_message, error_permanent, error_hint
    )
    SELECT $1, i.delivery_id, i.number, i.at, i.duration_ms, i.status_code, i.response_body, i.signature_header,
        i.error_code, i.error_message, i.error_permanent, i.error_hint
    FROM input AS i
    -- Joined, so that whoever ended the same attempt has committed before this one is kept.
    JOIN locked ON locked.delivery_id = i.delivery_id
    WHERE i.number IS NOT NULL
    ON CONFLICT (project_id, delivery_id, number) DO UPDATE
    SET at = excluded.at,
        duration_ms = excluded.duration_ms,
        status_code = excluded.status_code,
        response_body = excluded.response_body,
        signature_header = excluded.signature_header,
        error_code = excluded.error_code,
        error_message = excluded.error_message,
        error_permanent = excluded.error_permanent,
        error_hint = excluded.error_hint
    -- What came too late replaces what was assumed meanwhile, and nothing else.
    WHERE a.error_code = $20
),
moved AS (
    UPDATE heads AS h
    SET head = h.head + items.count, changed_at = greatest(clock_timestamp(), h.changed_at)
    FROM (SELECT count(*) AS count FROM ended) AS items
    WHERE $21 AND items.count > 0 AND h.project_id = $1 AND h.lane = 2
    RETURNING h.epoch, h.head - items.count AS previous_head
),
appended AS (
    INSERT INTO delivery_transitions (
        project_id, seq, delivery_id, from_status, to_status, at, attempt_number, batch_id, channel, user_id,
        workflow_id, workflow_run_id, endpoint_id, event_type, error_code, created_at
    )
    SELECT $1, moved.previous_head + row_number() OVER (ORDER BY ended.ordinal), ended.delivery_id, 'SENDING',
        ended.status, $19, ended.number, ended.batch_id, ended.channel, ended.user_id, ended.workflow_id,
        ended.workflow_run_id, ended.endpoint_id, ended.event_type, CASE WHEN ended.number IS NOT NULL THEN ended.error_code END,
        ended.created_at
    FROM moved
    CROSS JOIN ended
)
SELECT ended.delivery_id, ended.lease_token, moved.epoch, moved.previous_head
FROM ended
LEFT JOIN moved ON true;

-- name: lock_expired
-- Deliveries of a project whose worker let its lease end, locked, with their lease and how many workers they have lost.
SELECT
    d.project_id, d.delivery_id, d.batch_id, d.channel, d.status, d.suppressed_reason, d.user_id, d.workflow_id,
    d.workflow_run_id, d.event_seq, d.event_type, d.endpoint_id, d.push_token_id, d.owner_generation, d.recipient,
    d.dispatch_key, d.content, d.payload, d.variant, d.locale, d.error_code, d.error_message, d.error_permanent,
    d.error_hint, d.attempt_count, d.retry_schedule, d.schedule_offset, d.provider_message_id, d.depth, d.created_at,
    d.scheduled_for, d.next_attempt_at, d.sent_at, d.delivered_at, d.opened_at, d.clicked_at, d.finished_at,
    d.repeatable, d.workflow_step_number, d.lease_token,
    (
        SELECT count(*) FROM delivery_attempts AS a
        WHERE a.project_id = d.project_id AND a.delivery_id = d.delivery_id AND a.error_code = $3
    ) AS lost_count
FROM deliveries AS d
WHERE d.project_id = $1 AND d.lease_until <= statement_timestamp()
ORDER BY d.delivery_id
LIMIT $2
FOR NO KEY UPDATE SKIP LOCKED;

-- name: find_expired
-- The projects of the deliveries whose leases ended first.
SELECT DISTINCT oldest.project_id
FROM (
    SELECT project_id FROM deliveries
    WHERE lease_until <= statement_timestamp()
    ORDER BY lease_until
    LIMIT $1
) AS oldest;

-- name: find_due_projects
-- The projects that something is due in; of a project only as many keys are looked at as it takes (skip scan).
WITH RECURSIVE walk AS (
    (
        SELECT d.project_id, d.dispatch_key, d.next_attempt_at <= $1 AS is_due
        FROM deliveries AS d
        WHERE d.next_attempt_at IS NOT NULL
        ORDER BY d.project_id, d.dispatch_key, d.next_attempt_at
        LIMIT 1
    )
    UNION ALL
    SELECT following.project_id, following.dispatch_key, following.is_due
    FROM walk
    CROSS JOIN LATERAL (
        (
            SELECT d.project_id, d.dispatch_key, d.next_attempt_at <= $1 AS is_due
            FROM deliveries AS d
            WHERE walk.is_due AND d.next_attempt_at IS NOT NULL AND d.project_id > walk.project_id
            ORDER BY d.project_id, d.dispatch_key, d.next_attempt_at
            LIMIT 1
        )
        UNION ALL
        (
            SELECT d.project_id, d.dispatch_key, d.next_attempt_at <= $1 AS is_due
            FROM deliveries AS d
            WHERE NOT walk.is_due AND d.next_attempt_at IS NOT NULL
                AND (d.project_id, d.dispatch_key) > (walk.project_id, walk.dispatch_key)
            ORDER BY d.project_id, d.dispatch_key, d.next_attempt_at
            LIMIT 1
        )
    ) AS following
)
SELECT project_id FROM walk WHERE is_due;
