-- name: read_blocked_until
-- Until when no sign-in is looked at, of any of some subjects.
SELECT max(blocked_until) AS blocked_until
FROM sign_in_failures
WHERE project_id = $1 AND subject = ANY($2);

-- name: note_failure
-- Counts a failure of a subject, from 1 again where the last one is long ago.
INSERT INTO sign_in_failures AS f (project_id, subject, failures, first_at, last_at)
VALUES ($1, $2, 1, $3, $3)
ON CONFLICT (project_id, subject) DO UPDATE
SET failures = CASE WHEN f.last_at < $4 THEN 1 ELSE f.failures + 1 END,
    first_at = CASE WHEN f.last_at < $4 THEN $3 ELSE f.first_at END,
    last_at = greatest(f.last_at, $3)
RETURNING failures, storm_at, blocked_until;

-- name: block_subject
-- Says until when sign-ins of a subject are not looked at, and when a storm was told of.
UPDATE sign_in_failures SET blocked_until = $3, storm_at = $4
WHERE project_id = $1 AND subject = $2;

-- name: forget_failures
-- Forgets the failures of a subject.
DELETE FROM sign_in_failures
WHERE project_id = $1 AND subject = $2;

-- name: delete_old_failures
-- Deletes failures that are long ago, the oldest first.
DELETE FROM sign_in_failures AS f
USING (
    SELECT project_id, subject FROM sign_in_failures
    WHERE last_at < $1
    ORDER BY last_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
) AS old
WHERE f.project_id = old.project_id AND f.subject = old.subject;
