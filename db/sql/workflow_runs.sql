-- name: insert_runs
-- Inserts runs, given as a JSON array of objects with the columns' names.
INSERT INTO workflow_runs (
    project_id, run_id, workflow_id, version, status, user_id, event_seq, depth, step, next_step_at, claim_at, is_held,
    vars, steps_made, open_trace, asked, error, started_at, finished_at
)
SELECT
    $1, run_id, workflow_id, version, status, user_id, event_seq, depth, step, next_step_at, claim_at, is_held, vars,
    steps_made, open_trace, asked, error, started_at, finished_at
FROM jsonb_populate_recordset(CAST(NULL AS workflow_runs), CAST($2 AS text)::jsonb);

-- name: find_due_runs
-- Runs that a worker has to look at, those that waited longest first; then those whose lease has ended.
(
    SELECT run_id, workflow_id, user_id
    FROM workflow_runs
    WHERE project_id = $1 AND claim_at <= $2
    ORDER BY project_id, claim_at, run_id
    LIMIT $3
)
UNION ALL
(
    SELECT run_id, workflow_id, user_id
    FROM workflow_runs
    WHERE project_id = $1 AND lease_until <= statement_timestamp()
    ORDER BY lease_until
    LIMIT $3
);

-- name: find_projects_with_runs
-- The projects of runs to look at (skip scan), of workflows whose runs are to change, and of leases that have ended.
WITH RECURSIVE walk AS (
    (
        SELECT r.project_id, r.claim_at <= $1 AS is_due
        FROM workflow_runs AS r
        WHERE r.claim_at IS NOT NULL
        ORDER BY r.project_id, r.claim_at, r.run_id
        LIMIT 1
    )
    UNION ALL
    SELECT following.project_id, following.is_due
    FROM walk
    CROSS JOIN LATERAL (
        SELECT r.project_id, r.claim_at <= $1 AS is_due
        FROM workflow_runs AS r
        WHERE r.claim_at IS NOT NULL AND r.project_id > walk.project_id
        ORDER BY r.project_id, r.claim_at, r.run_id
        LIMIT 1
    ) AS following
)
SELECT project_id FROM walk WHERE is_due
UNION
SELECT project_id FROM workflows WHERE pending_change IS NOT NULL
UNION
SELECT project_id
FROM (
    SELECT r.project_id FROM workflow_runs AS r
    WHERE r.lease_until <= statement_timestamp()
    ORDER BY r.lease_until
    LIMIT $2
) AS ended;

-- name: lock_runs
-- Runs of a project by their ids, locked, in the order of their ids.
WITH wanted AS MATERIALIZED (
    SELECT CAST($1 AS uuid) AS project_id, given.run_id
    FROM unnest(CAST($2 AS uuid[])) AS given (run_id)
)
SELECT
    r.project_id, r.run_id, r.workflow_id, r.version, r.status, r.user_id, r.event_seq, r.depth, r.step,
    r.next_step_at, r.claim_at, r.is_held, r.vars, r.steps_made, r.open_trace, r.asked, r.error, r.started_at,
    r.finished_at, r.lease_token, coalesce(r.lease_until > statement_timestamp(), false) AS is_leased
FROM wanted AS w
JOIN workflow_runs AS r ON r.project_id = w.project_id AND r.run_id = w.run_id
ORDER BY r.run_id
FOR NO KEY UPDATE OF r;

-- name: try_lock_runs
-- The same without waiting: those that somebody holds are passed over.
WITH wanted AS MATERIALIZED (
    SELECT CAST($1 AS uuid) AS project_id, given.run_id
    FROM unnest(CAST($2 AS uuid[])) AS given (run_id)
)
SELECT
    r.project_id, r.run_id, r.workflow_id, r.version, r.status, r.user_id, r.event_seq, r.depth, r.step,
    r.next_step_at, r.claim_at, r.is_held, r.vars, r.steps_made, r.open_trace, r.asked, r.error, r.started_at,
    r.finished_at, r.lease_token, coalesce(r.lease_until > statement_timestamp(), false) AS is_leased
FROM wanted AS w
JOIN workflow_runs AS r ON r.project_id = w.project_id AND r.run_id = w.run_id
ORDER BY r.run_id
FOR NO KEY UPDATE OF r SKIP LOCKED;

-- name: lock_held_runs
-- The first runs of a workflow that are held, locked, in the order of their ids.
SELECT
    r.project_id, r.run_id, r.workflow_id, r.version, r.status, r.user_id, r.event_seq, r.depth, r.step,
    r.next_step_at, r.claim_at, r.is_held, r.vars, r.steps_made, r.open_trace, r.asked, r.error, r.started_at,
    r.finished_at, r.lease_token, coalesce(r.lease_until > statement_timestamp(), false) AS is_leased
FROM workflow_runs AS r
WHERE r.project_id = $1 AND r.workflow_id = $2 AND r.is_held
ORDER BY r.project_id, r.workflow_id, r.run_id
LIMIT $3
FOR NO KEY UPDATE;

-- name: lock_unfinished_runs
-- The first runs of a workflow that are not over, locked, in the order of their ids.
SELECT
    r.project_id, r.run_id, r.workflow_id, r.version, r.status, r.user_id, r.event_seq, r.depth, r.step,
    r.next_step_at, r.claim_at, r.is_held, r.vars, r.steps_made, r.open_trace, r.asked, r.error, r.started_at,
    r.finished_at, r.lease_token, coalesce(r.lease_until > statement_timestamp(), false) AS is_leased
FROM workflow_runs AS r
WHERE r.project_id = $1 AND r.workflow_id = $2 AND r.status IN ('QUEUED', 'RUNNING', 'PAUSED')
ORDER BY r.project_id, r.workflow_id, r.run_id
LIMIT $3
FOR NO KEY UPDATE;

-- name: save_runs
-- Writes runs that the caller has locked, given as a JSON array; those without a lease_token lose their lease.
WITH input AS MATERIALIZED (
    SELECT CAST($1 AS uuid) AS project_id, given.run_id, given.status, given.step, given.next_step_at, given.claim_at,
        given.is_held, given.vars, given.steps_made, given.open_trace, given.asked, given.error, given.finished_at,
        given.lease_token
    FROM jsonb_populate_recordset(CAST(NULL AS workflow_runs), CAST($2 AS text)::jsonb) AS given
)
UPDATE workflow_runs AS r
SET status = i.status,
    step = i.step,
    next_step_at = i.next_step_at,
    claim_at = i.claim_at,
    is_held = i.is_held,
    vars = i.vars,
    steps_made = i.steps_made,
    open_trace = i.open_trace,
    asked = i.asked,
    error = i.error,
    finished_at = i.finished_at,
    lease_token = i.lease_token,
    lease_until = CASE WHEN i.lease_token IS NOT NULL THEN clock_timestamp() + CAST($3 AS interval) END
FROM input AS i
WHERE r.project_id = i.project_id AND r.run_id = i.run_id;

-- name: upsert_run_steps
-- Writes steps as they stand now, given as a JSON array of objects with the columns' names.
INSERT INTO workflow_run_steps (
    project_id, run_id, number, workflow_id, step, label, type, outcome, detail, input, output, started_at, finished_at
)
SELECT
    $1, run_id, number, workflow_id, step, label, type, outcome, detail, input, output, started_at, finished_at
FROM jsonb_populate_recordset(CAST(NULL AS workflow_run_steps), CAST($2 AS text)::jsonb)
ON CONFLICT (project_id, run_id, number) DO UPDATE
SET outcome = excluded.outcome,
    detail = excluded.detail,
    input = excluded.input,
    output = excluded.output,
    finished_at = excluded.finished_at;

-- name: read_runs
-- Runs of a project by their ids.
WITH wanted AS MATERIALIZED (
    SELECT CAST($1 AS uuid) AS project_id, given.run_id
    FROM unnest(CAST($2 AS uuid[])) AS given (run_id)
)
SELECT
    r.project_id, r.run_id, r.workflow_id, r.version, r.status, r.user_id, r.event_seq, r.depth, r.step,
    r.next_step_at, r.claim_at, r.is_held, r.vars, r.steps_made, r.open_trace, r.asked, r.error, r.started_at,
    r.finished_at
FROM wanted AS w
JOIN workflow_runs AS r ON r.project_id = w.project_id AND r.run_id = w.run_id;

-- name: read_run_steps
-- The steps of some runs, by run and number.
SELECT
    s.project_id, s.run_id, s.number, s.workflow_id, s.step, s.label, s.type, s.outcome, s.detail, s.input, s.output,
    s.started_at, s.finished_at
FROM unnest(CAST($2 AS uuid[])) AS given (run_id)
CROSS JOIN LATERAL (
    -- One look-up each, whatever the planner knows of the table.
    SELECT * FROM workflow_run_steps AS t
    WHERE t.project_id = $1 AND t.run_id = given.run_id
    ORDER BY t.project_id, t.run_id, t.number
    LIMIT $3
) AS s
ORDER BY s.run_id, s.number;

-- name: read_step_deliveries
-- How the deliveries of some steps stand, each step given by its run and number.
WITH wanted AS MATERIALIZED (
    SELECT CAST($1 AS uuid) AS project_id, given.run_id, given.number
    FROM unnest(CAST($2 AS uuid[]), CAST($3 AS integer[])) AS given (run_id, number)
)
SELECT
    d.workflow_run_id AS run_id, d.workflow_step_number AS number, d.delivery_id, d.status, d.suppressed_reason,
    d.error_code, d.error_message, coalesce(d.finished_at, d.sent_at, d.created_at) AS at
FROM wanted AS w
JOIN deliveries AS d
    ON d.project_id = w.project_id AND d.workflow_run_id = w.run_id AND d.workflow_step_number = w.number
ORDER BY d.workflow_run_id, d.delivery_id;

-- name: set_claims
-- Has a worker look at runs whose open step waits for its deliveries.
-- Waits for whoever holds one, also where a look is due already: it may have been at how they stood before.
WITH wanted AS MATERIALIZED (
    SELECT CAST($1 AS uuid) AS project_id, given.run_id
    FROM unnest(CAST($2 AS uuid[])) AS given (run_id)
),
locked AS MATERIALIZED (
    SELECT waiting.project_id, waiting.run_id, waiting.claim_at
    FROM (SELECT project_id, run_id FROM wanted ORDER BY run_id) AS w
    CROSS JOIN LATERAL (
        -- One look-up each, whatever the planner knows of the table.
        SELECT r.project_id, r.run_id, r.claim_at FROM workflow_runs AS r
        WHERE r.project_id = w.project_id AND r.run_id = w.run_id AND r.status = 'RUNNING' AND NOT r.is_held
            AND r.open_trace IS NOT NULL AND r.next_step_at IS NULL AND r.lease_token IS NULL
        LIMIT 1
        FOR NO KEY UPDATE
    ) AS waiting
)
UPDATE workflow_runs AS r
SET claim_at = $3
FROM locked
-- As it is under the lock, not as it was when the statement began.
WHERE r.project_id = locked.project_id AND r.run_id = locked.run_id AND locked.claim_at IS NULL
RETURNING r.run_id;

-- name: return_leases
-- Has runs ask their model at once again whose asking was broken off, each given with its lease.
WITH wanted AS MATERIALIZED (
    SELECT CAST($1 AS uuid) AS project_id, given.run_id, given.lease_token
    FROM unnest(CAST($2 AS uuid[]), CAST($3 AS uuid[])) AS given (run_id, lease_token)
),
locked AS MATERIALIZED (
    SELECT r.project_id, r.run_id
    FROM wanted AS w
    JOIN workflow_runs AS r ON r.project_id = w.project_id AND r.run_id = w.run_id
    WHERE r.lease_token = w.lease_token AND r.status = 'RUNNING'
    ORDER BY r.run_id
    FOR NO KEY UPDATE OF r
)
UPDATE workflow_runs AS r
SET lease_token = NULL, lease_until = NULL, next_step_at = $4, claim_at = $4
FROM locked
WHERE r.project_id = locked.project_id AND r.run_id = locked.run_id;

-- name: lock_changing_workflow
-- The first workflow of a project whose runs are to change, locked.
SELECT
    project_id, workflow_id, name, is_active, is_paused, version, after_seq, pending_change, next_due_at,
    enrolling_due_at, enrolled_up_to, deleted_at
FROM workflows
WHERE project_id = $1 AND pending_change IS NOT NULL
ORDER BY project_id, workflow_id
LIMIT 1
FOR NO KEY UPDATE;

-- name: lock_pending_deliveries
-- The deliveries of some runs that can still be cancelled, locked, in the order of their ids.
WITH wanted AS MATERIALIZED (
    -- Joined by both columns: one look-up each, whatever the planner knows of the table.
    SELECT CAST($1 AS uuid) AS project_id, given.run_id
    FROM unnest(CAST($2 AS uuid[])) AS given (run_id)
)
SELECT d.delivery_id
FROM wanted AS w
JOIN deliveries AS d ON d.project_id = w.project_id AND d.workflow_run_id = w.run_id
WHERE d.status IN ('QUEUED', 'SCHEDULED', 'RETRYING')
ORDER BY d.delivery_id
FOR NO KEY UPDATE OF d;

-- name: cancel_deliveries
-- Cancels deliveries that the caller has locked.
WITH wanted AS MATERIALIZED (
    SELECT CAST($1 AS uuid) AS project_id, given.delivery_id
    FROM unnest(CAST($2 AS uuid[])) AS given (delivery_id)
)
UPDATE deliveries AS d SET status = 'CANCELLED', next_attempt_at = NULL, finished_at = $3
FROM wanted AS w
WHERE d.project_id = w.project_id AND d.delivery_id = w.delivery_id;
