-- name: insert_deliveries
-- Inserts deliveries, given as a JSON array of objects with the columns' names.
INSERT INTO deliveries (
    project_id, delivery_id, batch_id, channel, status, suppressed_reason, user_id, workflow_id, workflow_run_id,
    event_seq, event_type, endpoint_id, push_token_id, owner_generation, recipient, dispatch_key, content, variant,
    locale, error_code, error_message, error_permanent, error_hint, retry_schedule, depth, created_at, scheduled_for,
    next_attempt_at, finished_at
)
SELECT
    $1, delivery_id, batch_id, channel, status, suppressed_reason, user_id, workflow_id, workflow_run_id,
    event_seq, event_type, endpoint_id, push_token_id, owner_generation, recipient, dispatch_key, content, variant,
    locale, error_code, error_message, error_permanent, error_hint, retry_schedule, depth, created_at, scheduled_for,
    next_attempt_at, finished_at
FROM jsonb_populate_recordset(CAST(NULL AS deliveries), CAST($2 AS text)::jsonb);

-- name: append_transitions
-- Appends to a project's deliveries lane; see the function.
SELECT epoch, previous_head
FROM append_delivery_transitions($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15);

-- name: read_deliveries
-- Deliveries of a project by their ids.
SELECT
    project_id, delivery_id, batch_id, channel, status, suppressed_reason, user_id, workflow_id, workflow_run_id,
    event_seq, event_type, endpoint_id, push_token_id, owner_generation, recipient, dispatch_key, content, payload,
    variant, locale, error_code, error_message, error_permanent, error_hint, attempt_count, retry_schedule,
    schedule_offset, provider_message_id, depth, created_at, scheduled_for, next_attempt_at, sent_at, delivered_at,
    opened_at, clicked_at, finished_at, repeatable
FROM deliveries
WHERE project_id = $1 AND delivery_id = ANY($2);

-- name: lock_deliveries
-- The same, locked, in the order of their ids.
SELECT
    project_id, delivery_id, batch_id, channel, status, suppressed_reason, user_id, workflow_id, workflow_run_id,
    event_seq, event_type, endpoint_id, push_token_id, owner_generation, recipient, dispatch_key, content, payload,
    variant, locale, error_code, error_message, error_permanent, error_hint, attempt_count, retry_schedule,
    schedule_offset, provider_message_id, depth, created_at, scheduled_for, next_attempt_at, sent_at, delivered_at,
    opened_at, clicked_at, finished_at, repeatable
FROM deliveries
WHERE project_id = $1 AND delivery_id = ANY($2)
ORDER BY delivery_id
FOR NO KEY UPDATE;

-- name: read_attempts
-- The attempts of some deliveries of a project, by delivery and number.
SELECT
    project_id, delivery_id, number, at, duration_ms, status_code, response_body, signature_header, error_code,
    error_message, error_permanent, error_hint
FROM delivery_attempts
WHERE project_id = $1 AND delivery_id = ANY($2)
ORDER BY delivery_id, number;
