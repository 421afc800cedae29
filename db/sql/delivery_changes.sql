-- name: cancel_delivery
-- Cancels a delivery that the caller has locked, and gives it as it is now.
UPDATE deliveries SET status = 'CANCELLED', next_attempt_at = NULL, finished_at = $3
WHERE project_id = $1 AND delivery_id = $2 AND status IN ('QUEUED', 'SCHEDULED', 'RETRYING')
RETURNING
    project_id, delivery_id, batch_id, channel, status, suppressed_reason, user_id, workflow_id, workflow_run_id,
    event_seq, event_type, endpoint_id, push_token_id, owner_generation, recipient, dispatch_key, content, payload,
    variant, locale, error_code, error_message, error_permanent, error_hint, attempt_count, retry_schedule,
    schedule_offset, provider_message_id, depth, created_at, scheduled_for, next_attempt_at, sent_at, delivered_at,
    opened_at, clicked_at, finished_at, repeatable;

-- name: lock_delivery_ids
-- Locks deliveries in the order of their ids, without reading what they carry.
SELECT delivery_id
FROM deliveries
WHERE project_id = $1 AND delivery_id = ANY($2)
ORDER BY delivery_id
FOR NO KEY UPDATE;

-- name: requeue_deliveries
-- Queues finished deliveries again that have not changed since a position of their lane (any, where it is NULL).
UPDATE deliveries AS d
SET status = 'QUEUED', batch_id = $3, next_attempt_at = $4, scheduled_for = $4, schedule_offset = d.attempt_count,
    suppressed_reason = NULL, error_code = NULL, error_message = NULL, error_permanent = NULL, error_hint = NULL,
    sent_at = NULL, delivered_at = NULL, finished_at = NULL
FROM deliveries AS before
WHERE d.project_id = $1 AND d.delivery_id = ANY($2)
    AND before.project_id = d.project_id AND before.delivery_id = d.delivery_id
    AND ($5::bigint IS NULL OR NOT EXISTS (
        SELECT FROM delivery_transitions AS t
        WHERE t.project_id = $1 AND t.delivery_id = d.delivery_id AND t.seq > $5
    ))
RETURNING
    d.delivery_id, before.status AS from_status, d.status AS to_status, d.channel, d.created_at,
    CAST(NULL AS integer) AS attempt_number, d.batch_id, d.user_id, d.workflow_id, d.workflow_run_id, d.endpoint_id,
    d.event_type, d.error_code;
