-- name: cancel_delivery
-- Cancels a delivery that the caller has locked, and gives it as it is now.
UPDATE deliveries SET status = 'CANCELLED', next_attempt_at = NULL, finished_at = $3
WHERE project_id = $1 AND delivery_id = $2 AND status IN ('QUEUED', 'SCHEDULED', 'RETRYING')
RETURNING
    project_id, delivery_id, batch_id, channel, status, suppressed_reason, user_id, workflow_id, workflow_run_id,
    event_seq, event_type, endpoint_id, push_token_id, owner_generation, recipient, dispatch_key, content, payload,
    variant, locale, error_code, error_message, error_permanent, error_hint, attempt_count, retry_schedule,
    schedule_offset, provider_message_id, depth, created_at, scheduled_for, next_attempt_at, sent_at, delivered_at,
    opened_at, clicked_at, finished_at, repeatable, workflow_step_number;

-- name: lock_finished
-- Locks deliveries in the order of their ids and gives the transitions that would queue them again.
SELECT
    delivery_id, status AS from_status, 'QUEUED' AS to_status, channel, created_at,
    CAST(NULL AS integer) AS attempt_number, CAST($3 AS uuid) AS batch_id, user_id, workflow_id, workflow_run_id,
    endpoint_id, event_type, CAST(NULL AS text) AS error_code
FROM deliveries
WHERE project_id = $1 AND delivery_id = ANY($2)
    -- Says nothing new, but leads to the primary key before the planner knows the table.
    AND delivery_id BETWEEN (CAST($2 AS uuid[]))[1] AND (CAST($2 AS uuid[]))[cardinality($2)]
ORDER BY delivery_id
FOR NO KEY UPDATE;

-- name: find_unchanged
-- Of some deliveries, those whose last transition is not after a position of their lane.
SELECT given.delivery_id
FROM unnest(CAST($2 AS uuid[])) AS given (delivery_id)
LEFT JOIN LATERAL (
    -- One look-up each, whatever the planner knows of the lane.
    SELECT t.seq FROM delivery_transitions AS t
    WHERE t.project_id = $1 AND t.delivery_id = given.delivery_id
    ORDER BY t.project_id, t.delivery_id, t.seq DESC
    LIMIT 1
) AS latest ON true
WHERE latest.seq IS NULL OR latest.seq <= $3;

-- name: requeue_deliveries
-- Queues deliveries again.
UPDATE deliveries
SET status = 'QUEUED', batch_id = $3, next_attempt_at = $4, scheduled_for = $4, schedule_offset = attempt_count,
    suppressed_reason = NULL, error_code = NULL, error_message = NULL, error_permanent = NULL, error_hint = NULL,
    provider_message_id = NULL, sent_at = NULL, delivered_at = NULL, finished_at = NULL
WHERE project_id = $1 AND delivery_id = ANY($2)
    AND delivery_id BETWEEN (CAST($2 AS uuid[]))[1] AND (CAST($2 AS uuid[]))[cardinality($2)];
