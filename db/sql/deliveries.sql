-- name: insert_deliveries
-- Inserts deliveries, given as a JSON array of objects with the columns' names.
INSERT INTO deliveries (
    project_id, delivery_id, batch_id, channel, status, suppressed_reason, user_id, workflow_id, workflow_run_id,
    workflow_step_number, event_seq, event_type, endpoint_id, push_token_id, owner_generation, recipient, dispatch_key,
    content, variant, locale, error_code, error_message, error_permanent, error_hint, retry_schedule, depth, created_at,
    scheduled_for, next_attempt_at, finished_at
)
SELECT
    $1, delivery_id, batch_id, channel, status, suppressed_reason, user_id, workflow_id, workflow_run_id,
    workflow_step_number, event_seq, event_type, endpoint_id, push_token_id, owner_generation, recipient, dispatch_key,
    content, variant, locale, error_code, error_message, error_permanent, error_hint, retry_schedule, depth, created_at,
    scheduled_for, next_attempt_at, finished_at
FROM jsonb_populate_recordset(CAST(NULL AS deliveries), CAST($2 AS text)::jsonb);

-- name: append_transitions
-- Appends to a project's deliveries lane; see the function.
SELECT epoch, previous_head
FROM append_delivery_transitions($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15);

-- name: read_deliveries
-- Deliveries of a project by their ids, one look-up each, whatever the planner knows of the table.
WITH wanted AS MATERIALIZED (
    SELECT CAST($1 AS uuid) AS project_id, given.delivery_id
    FROM unnest(CAST($2 AS uuid[])) AS given (delivery_id)
)
SELECT
    d.project_id, d.delivery_id, d.batch_id, d.channel, d.status, d.suppressed_reason, d.user_id, d.workflow_id,
    d.workflow_run_id, d.event_seq, d.event_type, d.endpoint_id, d.push_token_id, d.owner_generation, d.recipient,
    d.dispatch_key, d.content, d.payload, d.variant, d.locale, d.error_code, d.error_message, d.error_permanent,
    d.error_hint, d.attempt_count, d.retry_schedule, d.schedule_offset, d.provider_message_id, d.depth, d.created_at,
    d.scheduled_for, d.next_attempt_at, d.sent_at, d.delivered_at, d.opened_at, d.clicked_at, d.finished_at,
    d.repeatable, d.workflow_step_number
FROM wanted AS w
JOIN deliveries AS d ON d.project_id = w.project_id AND d.delivery_id = w.delivery_id;

-- name: lock_deliveries
-- The same, locked, in the order of their ids.
WITH wanted AS MATERIALIZED (
    SELECT CAST($1 AS uuid) AS project_id, given.delivery_id
    FROM unnest(CAST($2 AS uuid[])) AS given (delivery_id)
)
SELECT
    d.project_id, d.delivery_id, d.batch_id, d.channel, d.status, d.suppressed_reason, d.user_id, d.workflow_id,
    d.workflow_run_id, d.event_seq, d.event_type, d.endpoint_id, d.push_token_id, d.owner_generation, d.recipient,
    d.dispatch_key, d.content, d.payload, d.variant, d.locale, d.error_code, d.error_message, d.error_permanent,
    d.error_hint, d.attempt_count, d.retry_schedule, d.schedule_offset, d.provider_message_id, d.depth, d.created_at,
    d.scheduled_for, d.next_attempt_at, d.sent_at, d.delivered_at, d.opened_at, d.clicked_at, d.finished_at,
    d.repeatable, d.workflow_step_number
FROM wanted AS w
JOIN deliveries AS d ON d.project_id = w.project_id AND d.delivery_id = w.delivery_id
ORDER BY d.delivery_id
FOR NO KEY UPDATE OF d;

-- name: hold_deliveries
-- Those of some deliveries that are there, and stay until the transaction ends.
WITH wanted AS MATERIALIZED (
    SELECT CAST($1 AS uuid) AS project_id, given.delivery_id
    FROM unnest(CAST($2 AS uuid[])) AS given (delivery_id)
)
SELECT d.delivery_id
FROM wanted AS w
JOIN deliveries AS d ON d.project_id = w.project_id AND d.delivery_id = w.delivery_id
ORDER BY d.delivery_id
FOR KEY SHARE OF d;

-- name: read_attempts
-- The attempts of some deliveries of a project, by delivery and number.
SELECT
    project_id, delivery_id, number, at, duration_ms, status_code, response_body, signature_header, error_code,
    error_message, error_permanent, error_hint
FROM delivery_attempts
WHERE project_id = $1 AND delivery_id = ANY($2)
ORDER BY delivery_id, number;
