-- name: read_workflow_secrets
-- The sealed secrets that are active at $2, the oldest first.
SELECT secret_id, sealed_secret
FROM workflow_secrets
WHERE project_id = $1 AND (expires_at IS NULL OR expires_at > $2)
ORDER BY expires_at NULLS LAST, secret_id;

-- name: insert_workflow_secret
-- Adds the newest secret, unless there is one without an end; gives its id if it was added.
INSERT INTO workflow_secrets (project_id, secret_id, sealed_secret, created_at)
VALUES ($1, $2, $3, $4)
ON CONFLICT (project_id) WHERE expires_at IS NULL DO NOTHING
RETURNING secret_id;

-- name: expire_workflow_secrets
-- Ends secrets at a time, those that have no end yet or a later one.
UPDATE workflow_secrets
SET expires_at = $2
WHERE project_id = $1 AND (expires_at IS NULL OR expires_at > $2);

-- name: delete_expired_workflow_secrets
-- Deletes the secrets that have ended by $2.
DELETE FROM workflow_secrets
WHERE project_id = $1 AND expires_at <= $2;

-- name: lock_workflow_secrets
-- Locks the project's row: nobody else rotates its secrets until the transaction ends.
SELECT project_id
FROM projects
WHERE project_id = $1
FOR NO KEY UPDATE;
