-- name: append_events
-- Appends a batch to a project's events lane; see the function.
SELECT epoch, received_at, previous_head, held_keys, held_seqs, held_mine, dropped_keys, erased_keys
FROM append_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14);

-- name: read_events_by_seq
-- The events at some positions of a project.
SELECT
    project_id, seq, key, module, event_type, timestamp, received_at, user_id, anonymous_id, properties, context
FROM events
WHERE project_id = $1 AND seq = ANY($2)
ORDER BY seq;

-- name: read_events_by_key
-- The events under some idempotency keys of a project.
SELECT
    project_id, seq, key, module, event_type, timestamp, received_at, user_id, anonymous_id, properties, context
FROM events
WHERE project_id = $1 AND key = ANY($2)
ORDER BY seq;

-- name: find_first_since
-- Of the events from a seq up to another, the seq of the first that came at or after an instant, else that other seq.
SELECT coalesce(min(seq), $3) AS seq
FROM events
WHERE project_id = $1 AND seq >= $2 AND seq < $3 AND received_at >= $4;

-- name: lock_events_head
-- Locks a project's events head and says where it stands.
SELECT head, first_seq
FROM heads
WHERE project_id = $1 AND lane = 1
FOR NO KEY UPDATE;

-- name: delete_events_before
-- Deletes the oldest events of a project, below a seq.
DELETE FROM events
WHERE project_id = $1 AND seq < $2;

-- name: delete_erased_keys_before
-- Forgets the keys of erased events of a project below a seq, as those of events that are deleted.
DELETE FROM erased_keys
WHERE project_id = $1 AND seq < $2;

-- name: move_first_seq
-- Moves the floor of a project's events lane.
UPDATE heads SET first_seq = $2
WHERE project_id = $1 AND lane = 1;
