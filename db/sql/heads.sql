-- name: read_head
-- The head of one lane of one project.
SELECT project_id, lane, head, first_seq, epoch
FROM heads
WHERE project_id = $1 AND lane = $2;

-- name: read_heads
-- The heads of all lanes of the given projects.
SELECT project_id, lane, head, first_seq, epoch
FROM heads
WHERE project_id = ANY($1)
ORDER BY project_id, lane;

-- name: read_changed_heads
-- The heads that moved after an instant of the database's clock.
SELECT project_id, lane, head, first_seq, epoch
FROM heads
WHERE changed_at > $1
ORDER BY project_id, lane;

-- name: read_clock
-- The database's clock now, also inside a transaction.
SELECT clock_timestamp() AS now;

-- name: advance_epoch
-- Starts a new epoch in all lanes of a project, so that cursors of the old one expire.
WITH advanced AS (
    UPDATE heads SET epoch = epoch + 1, changed_at = clock_timestamp() WHERE project_id = $1 RETURNING epoch
)
SELECT max(epoch) AS epoch FROM advanced;
