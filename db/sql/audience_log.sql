-- name: append_audience_changes
-- Appends to the audiences lane.
SELECT epoch, previous_head FROM append_audience_changes($1, $2, $3, $4, $5);

-- name: read_audience_changes
-- A page of the audiences lane past a position, of one audience if one is given, with the head of the lane.
SELECT h.head, h.first_seq, h.epoch, page.seq, page.audience_id, page.user_id, page.entered, page.at
FROM heads AS h
LEFT JOIN LATERAL (
    SELECT c.seq, c.audience_id, c.user_id, c.entered, c.at
    FROM audience_changes AS c
    WHERE c.project_id = $1 AND c.seq > $2 AND c.seq <= h.head
        AND (CAST($4 AS uuid) IS NULL OR c.audience_id = $4)
    ORDER BY c.seq
    LIMIT $3
) AS page ON true
WHERE h.project_id = $1 AND h.lane = 4
ORDER BY page.seq;

-- name: find_first_change_since
-- Of the changes from a seq up to another, the seq of the first that came at or after an instant, else that other seq.
SELECT coalesce(min(seq), $3) AS seq
FROM audience_changes
WHERE project_id = $1 AND seq >= $2 AND seq < $3 AND at >= $4;

-- name: lock_audiences_head
-- Locks a project's audiences head and says where it stands.
SELECT head, first_seq
FROM heads
WHERE project_id = $1 AND lane = 4
FOR NO KEY UPDATE;

-- name: delete_audience_changes_before
-- Deletes the oldest changes of a project, below a seq.
DELETE FROM audience_changes
WHERE project_id = $1 AND seq < $2;

-- name: move_first_change
-- Moves the floor of a project's audiences lane.
UPDATE heads SET first_seq = $2
WHERE project_id = $1 AND lane = 4;
