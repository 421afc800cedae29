-- name: insert_replay
-- Inserts a replay that is to be carried on, and gives its id, unless it is there already.
INSERT INTO send_batches (project_id, batch_id, kind, queued, progress, created_at)
VALUES ($1, $2, 'REPLAY', $3, CAST($4 AS text)::jsonb, $5)
ON CONFLICT DO NOTHING
RETURNING batch_id;

-- name: lock_replay
-- The oldest replay of a project that is not finished, locked, past those that others have locked.
SELECT batch_id, progress
FROM send_batches
WHERE project_id = $1 AND kind = 'REPLAY' AND progress IS NOT NULL
ORDER BY batch_id
LIMIT 1
FOR UPDATE SKIP LOCKED;

-- name: move_replay
-- Says how far a replay has come; NULL when it is finished.
UPDATE send_batches SET progress = CAST($3 AS text)::jsonb
WHERE project_id = $1 AND batch_id = $2;

-- name: count_unfinished_replays
-- How many replays of a project are not finished.
SELECT count(*) AS replays
FROM send_batches
WHERE project_id = $1 AND kind = 'REPLAY' AND progress IS NOT NULL;

-- name: find_replaying_projects
-- The projects that have a replay to carry on.
SELECT DISTINCT project_id
FROM send_batches
WHERE kind = 'REPLAY' AND progress IS NOT NULL;
