-- name: read_heir
-- Who took a user over.
SELECT user_id
FROM identity_links
WHERE project_id = $1 AND kind = 'USER_ID' AND alias = $2;

-- name: read_aliases
-- The ids that stand for a user.
SELECT kind, alias
FROM identity_links
WHERE project_id = $1 AND user_id = $2;

-- name: lock_people
-- The profiles of some users, locked against everyone who holds, shares or locks them.
SELECT user_id, profile_id, traits
FROM profiles
WHERE project_id = $1 AND user_id = ANY($2)
ORDER BY user_id
FOR UPDATE;

-- name: insert_stand_in
-- A profile for somebody who has none, so that there is something to lock.
INSERT INTO profiles (project_id, profile_id, user_id)
VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING;

-- name: is_known
-- Whether anything but a profile names a user.
SELECT
    EXISTS (SELECT FROM users WHERE project_id = $1 AND user_id = $2)
    OR EXISTS (SELECT FROM sessions WHERE project_id = $1 AND user_id = $2)
    OR EXISTS (SELECT FROM consents WHERE project_id = $1 AND user_id = $2)
    OR EXISTS (SELECT FROM consent_changes WHERE project_id = $1 AND user_id = $2)
    OR EXISTS (SELECT FROM push_tokens WHERE project_id = $1 AND user_id = $2)
    OR EXISTS (SELECT FROM deliveries WHERE project_id = $1 AND user_id = $2)
    OR EXISTS (SELECT FROM workflow_runs WHERE project_id = $1 AND user_id = $2)
    OR EXISTS (SELECT FROM audience_changes WHERE project_id = $1 AND user_id = $2)
    OR EXISTS (SELECT FROM identity_links WHERE project_id = $1 AND user_id = $2)
    OR EXISTS (SELECT FROM audit_entries WHERE project_id = $1 AND user_id = $2)
    OR EXISTS (SELECT FROM events WHERE project_id = $1 AND user_id = $2) AS is_known;

-- name: read_addresses
-- Where some users were reached, in lower case.
SELECT lower(recipient) AS address
FROM deliveries
WHERE project_id = $1 AND user_id = ANY($2) AND recipient IS NOT NULL
UNION
SELECT email
FROM users
WHERE project_id = $1 AND user_id = ANY($2) AND email IS NOT NULL;

-- name: remove_users
-- Removes accounts, with their passwords and second factors.
DELETE FROM users
WHERE project_id = $1 AND user_id = ANY($2);

-- name: lock_sessions
-- The sessions of some users, and those that they took over, locked.
SELECT session_id, ended_at IS NULL AS is_open
FROM sessions
WHERE project_id = $1 AND (user_id = ANY($2) OR taken_over_by = ANY($2))
ORDER BY session_id
FOR UPDATE;

-- name: remove_sessions
-- Removes sessions with their refresh tokens; gives how many of each.
WITH tokens AS (
    DELETE FROM refresh_tokens
    WHERE project_id = $1 AND session_id = ANY($2)
    RETURNING session_id
),
gone AS (
    DELETE FROM sessions
    WHERE project_id = $1 AND session_id = ANY($2)
    RETURNING session_id
)
SELECT (SELECT count(*) FROM gone) AS sessions, (SELECT count(*) FROM tokens) AS refresh_tokens;

-- name: remove_failures
-- Removes what was counted of sign-ins that failed, by hashes of accounts.
DELETE FROM sign_in_failures
WHERE project_id = $1 AND subject = ANY($2);

-- name: remove_consents
-- Removes what users have said.
DELETE FROM consents
WHERE project_id = $1 AND user_id = ANY($2);

-- name: blank_consent_changes
-- Takes users out of the log of consent, which still holds.
UPDATE consent_changes
SET user_id = NULL, source = NULL, actor = NULL, salt = NULL
WHERE project_id = $1 AND user_id = ANY($2);

-- name: lock_push_tokens
-- The devices of some users, locked.
SELECT push_token_id
FROM push_tokens
WHERE project_id = $1 AND user_id = ANY($2)
ORDER BY push_token_id
FOR UPDATE;

-- name: remove_push_tokens
-- Removes devices with their Live Activities; gives how many of each.
WITH activities AS (
    DELETE FROM live_activities
    WHERE project_id = $1 AND push_token_id = ANY($2)
    RETURNING live_activity_id
),
gone AS (
    DELETE FROM push_tokens
    WHERE project_id = $1 AND push_token_id = ANY($2)
    RETURNING push_token_id
)
SELECT (SELECT count(*) FROM gone) AS push_tokens, (SELECT count(*) FROM activities) AS live_activities;

-- name: remove_reservations
-- Removes what counts against users' frequency caps.
DELETE FROM push_reservations
WHERE project_id = $1 AND user_id = ANY($2);

-- name: move_marks_of_audiences
-- Lets the building of audiences stand at whoever comes before the users that it stood at.
UPDATE audiences AS a
SET built_up_to = (
    SELECT max(p.user_id) FROM profiles AS p
    WHERE p.project_id = a.project_id AND p.user_id < a.built_up_to AND p.user_id <> ALL($2)
)
WHERE a.project_id = $1 AND a.built_up_to = ANY($2);

-- name: move_marks_of_workflows
-- Lets enrolment stand at whoever comes before the users that it stood at.
UPDATE workflows AS w
SET enrolled_up_to = (
    SELECT max(p.user_id) FROM profiles AS p
    WHERE p.project_id = w.project_id AND p.user_id < w.enrolled_up_to AND p.user_id <> ALL($2)
)
WHERE w.project_id = $1 AND w.enrolled_up_to = ANY($2);

-- name: blank_sends_in_progress
-- Takes users ($2) and addresses ($3) out of sends to audiences that are not finished.
UPDATE send_batches AS b
SET progress = b.progress || jsonb_build_object(
    'taken_users', (
        SELECT coalesce(jsonb_agg(each.value), '[]')
        FROM jsonb_array_elements_text(b.progress -> 'taken_users') AS each (value)
        WHERE each.value <> ALL($2)
    ),
    'taken_addresses', (
        SELECT coalesce(jsonb_agg(each.value), '[]')
        FROM jsonb_array_elements_text(b.progress -> 'taken_addresses') AS each (value)
        WHERE each.value <> ALL($3)
    ),
    'after', CASE
        WHEN b.progress ->> 'after' = ANY($2) THEN (
            SELECT max(p.user_id) FROM profiles AS p
            WHERE p.project_id = b.project_id AND p.user_id < b.progress ->> 'after' AND p.user_id <> ALL($2)
        )
        ELSE b.progress ->> 'after'
    END
)
WHERE b.project_id = $1 AND b.progress IS NOT NULL AND b.kind <> 'REPLAY'
    AND (
        b.progress -> 'taken_users' ?| $2 OR b.progress -> 'taken_addresses' ?| $3
        OR b.progress ->> 'after' = ANY($2)
    );

-- name: remove_replays
-- Removes replays in progress of nobody's deliveries but some users'.
DELETE FROM send_batches
WHERE project_id = $1 AND kind = 'REPLAY' AND progress #>> '{delivery_filter,user_id}' = ANY($2);

-- name: remove_batches
-- Removes batches that have no deliveries left.
DELETE FROM send_batches AS b
WHERE b.project_id = $1 AND b.batch_id = ANY($2) AND b.progress IS NULL
    AND NOT EXISTS (SELECT FROM deliveries AS d WHERE d.project_id = b.project_id AND d.batch_id = b.batch_id);

-- name: blank_batches
-- Forgets the idempotency keys of batches, where they hold one of some values.
UPDATE send_batches
SET idempotency_key = NULL, request_hash = NULL
WHERE project_id = $1 AND batch_id = ANY($2)
    AND EXISTS (SELECT FROM unnest(CAST($3 AS text[])) AS held (value) WHERE strpos(idempotency_key, held.value) > 0);

-- name: lock_runs_of_people
-- Some runs for a user after one of them, locked.
SELECT run_id
FROM workflow_runs
WHERE project_id = $1 AND user_id = $2 AND run_id > $3
ORDER BY run_id
LIMIT $4
FOR UPDATE;

-- name: lock_runs_of_events
-- Runs for nobody that events started, locked.
SELECT run_id
FROM workflow_runs
WHERE project_id = $1 AND user_id IS NULL AND event_seq = ANY($2)
ORDER BY run_id
FOR UPDATE;

-- name: lock_late_runs
-- Runs for nobody that moved after a position of their lane, and that an erased event started, locked.
SELECT r.run_id
FROM workflow_runs AS r
WHERE r.project_id = $1 AND r.user_id IS NULL
    AND r.run_id = ANY(
        ARRAY(SELECT u.run_id FROM workflow_run_updates AS u WHERE u.project_id = $1 AND u.seq > $2)
    )
    AND EXISTS (
        SELECT FROM tombstones AS t WHERE t.project_id = r.project_id AND t.lane = 1 AND t.seq = r.event_seq
    )
ORDER BY r.run_id
FOR UPDATE;

-- name: remove_runs
-- Removes runs with their traces and their items of the lane; gives how many of each.
WITH updates AS (
    DELETE FROM workflow_run_updates
    WHERE project_id = $1 AND run_id = ANY($2)
    RETURNING seq
),
buried AS (
    INSERT INTO tombstones (project_id, lane, seq)
    SELECT $1, 3, seq FROM updates
    ON CONFLICT DO NOTHING
),
steps AS (
    DELETE FROM workflow_run_steps
    WHERE project_id = $1 AND run_id = ANY($2)
    RETURNING run_id
),
gone AS (
    DELETE FROM workflow_runs
    WHERE project_id = $1 AND run_id = ANY($2)
    RETURNING run_id
)
SELECT
    (SELECT count(*) FROM gone) AS workflow_runs,
    (SELECT count(*) FROM steps) AS workflow_run_steps,
    (SELECT count(*) FROM updates) AS workflow_run_updates;

-- name: lock_deliveries_of_people
-- Some deliveries to a user after one of them, locked.
SELECT delivery_id
FROM deliveries
WHERE project_id = $1 AND user_id = $2 AND delivery_id > $3
ORDER BY delivery_id
LIMIT $4
FOR UPDATE;

-- name: lock_deliveries_of_runs
-- Deliveries that runs made, locked.
SELECT delivery_id
FROM deliveries
WHERE project_id = $1 AND workflow_run_id = ANY($2)
ORDER BY delivery_id
FOR UPDATE;

-- name: lock_deliveries_of_events
-- Deliveries to nobody that events caused, which is webhooks, locked.
SELECT delivery_id
FROM deliveries
WHERE project_id = $1 AND user_id IS NULL AND event_seq = ANY($2)
ORDER BY delivery_id
FOR UPDATE;

-- name: lock_deliveries_to_addresses
-- Some deliveries to an address alone after one of them, locked.
SELECT delivery_id
FROM deliveries
WHERE project_id = $1 AND user_id IS NULL AND recipient IS NOT NULL AND lower(recipient) = $2 AND delivery_id > $3
ORDER BY delivery_id
LIMIT $4
FOR UPDATE;

-- name: lock_late_deliveries
-- Deliveries to nobody that moved after a position of their lane, and that an erased event caused, locked.
SELECT d.delivery_id
FROM deliveries AS d
WHERE d.project_id = $1 AND d.user_id IS NULL
    AND d.delivery_id = ANY(
        ARRAY(SELECT m.delivery_id FROM delivery_transitions AS m WHERE m.project_id = $1 AND m.seq > $2)
    )
    AND EXISTS (
        SELECT FROM tombstones AS t WHERE t.project_id = d.project_id AND t.lane = 1 AND t.seq = d.event_seq
    )
ORDER BY d.delivery_id
FOR UPDATE;

-- name: remove_deliveries
-- Removes deliveries with their attempts, reservations and items of the lane; gives how many, and their batches.
WITH moves AS (
    DELETE FROM delivery_transitions
    WHERE project_id = $1 AND delivery_id = ANY($2)
    RETURNING seq, batch_id
),
buried AS (
    INSERT INTO tombstones (project_id, lane, seq)
    SELECT $1, 2, seq FROM moves
    ON CONFLICT DO NOTHING
),
attempts AS (
    DELETE FROM delivery_attempts
    WHERE project_id = $1 AND delivery_id = ANY($2)
    RETURNING number
),
reservations AS (
    DELETE FROM push_reservations
    WHERE project_id = $1 AND delivery_id = ANY($2)
    RETURNING delivery_id
),
gone AS (
    DELETE FROM deliveries
    WHERE project_id = $1 AND delivery_id = ANY($2)
    RETURNING batch_id
)
SELECT
    (SELECT count(*) FROM gone) AS deliveries,
    (SELECT count(*) FROM attempts) AS delivery_attempts,
    (SELECT count(*) FROM moves) AS delivery_transitions,
    (SELECT count(*) FROM reservations) AS push_reservations,
    ARRAY(
        SELECT batch_id FROM gone WHERE batch_id IS NOT NULL UNION SELECT batch_id FROM moves WHERE batch_id IS NOT NULL
    ) AS batch_ids;

-- name: find_events_of_user
-- Where some events of a user stand, after a position.
SELECT seq
FROM events
WHERE project_id = $1 AND user_id = $2 AND seq > $3
ORDER BY seq
LIMIT $4;

-- name: find_events_of_device
-- Where some events of nobody under an anonymous id stand, after a position.
SELECT seq
FROM events
WHERE project_id = $1 AND user_id IS NULL AND anonymous_id = $2 AND seq > $3
ORDER BY seq
LIMIT $4;

-- name: find_late_events
-- Where events of users ($2), and of nobody under anonymous ids ($3), stand after a position near the end of the log.
SELECT seq
FROM events
WHERE project_id = $1 AND seq > $4 AND (user_id = ANY($2) OR (user_id IS NULL AND anonymous_id = ANY($3)))
ORDER BY seq;

-- name: remove_events
-- Removes events; what is left of them is a hole in the lane and a hash of their keys. Gives how many.
WITH gone AS (
    DELETE FROM events
    WHERE project_id = $1 AND seq = ANY($2)
    RETURNING seq, key
),
buried AS (
    INSERT INTO tombstones (project_id, lane, seq)
    SELECT $1, 1, seq FROM gone
    ON CONFLICT DO NOTHING
),
noted AS (
    INSERT INTO erased_keys (project_id, key_hash, seq)
    SELECT $1, sha256(p.salt || convert_to(gone.key, 'UTF8')), gone.seq
    FROM gone
    JOIN projects AS p ON p.project_id = $1
    ON CONFLICT DO NOTHING
)
SELECT count(*) AS events FROM gone;

-- name: remove_memberships
-- Removes what is known of users as members of audiences, with their items of the lane; gives how many of each.
WITH members AS (
    DELETE FROM audience_members
    WHERE project_id = $1 AND user_id = ANY($2)
    RETURNING user_id
),
rechecks AS (
    DELETE FROM audience_rechecks
    WHERE project_id = $1 AND user_id = ANY($2)
    RETURNING user_id
),
changes AS (
    DELETE FROM audience_changes
    WHERE project_id = $1 AND user_id = ANY($2)
    RETURNING seq
),
buried AS (
    INSERT INTO tombstones (project_id, lane, seq)
    SELECT $1, 4, seq FROM changes
    ON CONFLICT DO NOTHING
)
SELECT
    (SELECT count(*) FROM members) AS audience_members,
    (SELECT count(*) FROM rechecks) AS audience_rechecks,
    (SELECT count(*) FROM changes) AS audience_changes;

-- name: hash_suppressions
-- Lets addresses stay suppressed of which nothing is kept but a hash.
WITH gone AS (
    DELETE FROM suppressions
    WHERE project_id = $1 AND channel IN ('EMAIL', 'SMS') AND address = ANY($2)
    RETURNING channel, address, reason, created_at
),
kept AS (
    INSERT INTO suppressions (project_id, channel, address, reason, created_at)
    SELECT $1, gone.channel, 'sha256:' || encode(sha256(p.salt || convert_to(gone.address, 'UTF8')), 'hex'), gone.reason,
        gone.created_at
    FROM gone
    JOIN projects AS p ON p.project_id = $1
    ON CONFLICT DO NOTHING
)
SELECT count(*) AS suppressions FROM gone;

-- name: remove_links
-- Removes what says whom ids stand for.
DELETE FROM identity_links
WHERE project_id = $1 AND (user_id = ANY($2) OR (kind = 'USER_ID' AND alias = ANY($2)));

-- name: remove_profiles
-- Removes profiles.
DELETE FROM profiles
WHERE project_id = $1 AND user_id = ANY($2);

-- name: lock_heads
-- Locks the heads of all lanes, in their order.
SELECT lane, head
FROM heads
WHERE project_id = $1
ORDER BY lane
FOR NO KEY UPDATE;

-- name: insert_erasure
-- Keeps the receipt of an erasure.
INSERT INTO erasures (project_id, erasure_id, person_hash, profile_id, erased_at, removed)
VALUES ($1, $2, $3, $4, $5, CAST($6 AS text)::jsonb);

-- name: find_erasure
-- The last receipt of a person.
SELECT project_id, erasure_id, person_hash, profile_id, erased_at, removed
FROM erasures
WHERE project_id = $1 AND person_hash = $2
ORDER BY erased_at DESC, erasure_id DESC
LIMIT 1;

-- name: find_tombstones
-- Of some items of a lane those that were erased.
SELECT seq
FROM tombstones
WHERE project_id = $1 AND lane = $2 AND seq = ANY($3);

-- name: delete_tombstones_before
-- Deletes the tombstones of a lane below a seq.
DELETE FROM tombstones
WHERE project_id = $1 AND lane = $2 AND seq < $3;
