-- name: report_status
-- Moves a delivery that the caller has locked to what its provider reports, and gives it as it is now.
UPDATE deliveries
SET
    status = $3,
    provider_message_id = coalesce(provider_message_id, $4),
    error_code = $5,
    error_message = $6,
    error_permanent = $7,
    error_hint = $8,
    sent_at = coalesce(sent_at, CASE WHEN $3 IN ('SENT', 'DELIVERED') THEN CAST($9 AS timestamptz) END),
    delivered_at = coalesce(delivered_at, CASE WHEN $3 = 'DELIVERED' THEN CAST($9 AS timestamptz) END),
    finished_at = $9
WHERE project_id = $1 AND delivery_id = $2 AND status IN ('SENT', 'DELIVERED', 'UNCERTAIN', 'FAILED')
RETURNING
    project_id, delivery_id, batch_id, channel, status, suppressed_reason, user_id, workflow_id, workflow_run_id,
    event_seq, event_type, endpoint_id, push_token_id, owner_generation, recipient, dispatch_key, content, payload,
    variant, locale, error_code, error_message, error_permanent, error_hint, attempt_count, retry_schedule,
    schedule_offset, provider_message_id, depth, created_at, scheduled_for, next_attempt_at, sent_at, delivered_at,
    opened_at, clicked_at, finished_at, repeatable, workflow_step_number;

-- name: find_by_provider_message
-- The deliveries of a project that a provider knows under an id of its own.
SELECT delivery_id
FROM deliveries
WHERE project_id = $1 AND provider_message_id = $2 AND channel = $3
ORDER BY delivery_id
LIMIT 1;

-- name: stamp_reading
-- Notes when a mail was first opened, and when a link in it was first followed.
UPDATE deliveries
SET
    opened_at = CASE WHEN CAST($3 AS boolean) THEN opened_at ELSE coalesce(opened_at, $4) END,
    clicked_at = CASE WHEN CAST($3 AS boolean) THEN coalesce(clicked_at, $4) ELSE clicked_at END
WHERE project_id = $1 AND delivery_id = $2;
