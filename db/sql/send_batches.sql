-- name: insert_batch
-- Inserts a batch, and gives its id, unless its id or its idempotency key is there already.
INSERT INTO send_batches (project_id, batch_id, kind, idempotency_key, request_hash, created_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
RETURNING batch_id;

-- name: find_batch
-- The batch with an id or an idempotency key.
SELECT batch_id, kind, request_hash, queued, scheduled, suppressed
FROM send_batches
WHERE project_id = $1 AND (batch_id = $2 OR idempotency_key = $3)
ORDER BY batch_id <> $2
LIMIT 1;

-- name: set_batch_counts
-- Keeps what was made of a batch, as of its acceptance.
UPDATE send_batches SET queued = $3, scheduled = $4, suppressed = $5
WHERE project_id = $1 AND batch_id = $2;

-- name: read_batch_deliveries
-- The first deliveries of a batch, in the order in which they were made.
SELECT
    project_id, delivery_id, batch_id, channel, status, suppressed_reason, user_id, workflow_id, workflow_run_id,
    event_seq, event_type, endpoint_id, push_token_id, owner_generation, recipient, dispatch_key, content, payload,
    variant, locale, error_code, error_message, error_permanent, error_hint, attempt_count, retry_schedule,
    schedule_offset, provider_message_id, depth, created_at, scheduled_for, next_attempt_at, sent_at, delivered_at,
    opened_at, clicked_at, finished_at, repeatable, workflow_step_number
FROM deliveries
WHERE project_id = $1 AND batch_id = $2
ORDER BY delivery_id
LIMIT $3;
