-- name: move_audience_send
-- Says how far a send to an audience has come, and when it is gone on with; NULL and NULL when it is finished.
UPDATE send_batches SET progress = CAST($3 AS text)::jsonb, continue_at = $4
WHERE project_id = $1 AND batch_id = $2;

-- name: lock_audience_send
-- The send to an audience that has waited longest of those to be gone on with, locked, past those that others have.
SELECT batch_id, kind, progress
FROM send_batches
WHERE project_id = $1 AND continue_at <= $2
ORDER BY continue_at, batch_id
LIMIT 1
FOR UPDATE SKIP LOCKED;

-- name: count_unfinished_audience_sends
-- How many sends to audiences of a project are not finished.
SELECT count(*) AS sends
FROM send_batches
WHERE project_id = $1 AND progress IS NOT NULL AND continue_at IS NOT NULL;

-- name: find_audience_sends
-- The projects that have a send to an audience to go on with.
SELECT DISTINCT project_id
FROM send_batches
WHERE continue_at <= $1;
