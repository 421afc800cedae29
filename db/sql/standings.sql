-- name: read_said
-- What a person has said about each purpose, without a lock.
SELECT purpose, state
FROM consents
WHERE project_id = $1 AND user_id = $2;

-- name: read_held
-- The suppressed ones of some addresses of a channel with the reason, without a lock.
SELECT address, reason
FROM suppressions
WHERE project_id = $1 AND channel = $2 AND address = ANY($3);
