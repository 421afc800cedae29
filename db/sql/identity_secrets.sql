-- name: read_identity_secrets
-- A project's secrets that are, or will still be, valid at an instant, the newest first.
SELECT project_id, identity_secret_id, sealed_secret, created_at, expires_at
FROM identity_secrets
WHERE project_id = $1 AND (expires_at IS NULL OR expires_at > $2)
ORDER BY created_at DESC, identity_secret_id DESC;

-- name: expire_identity_secrets
-- Ends all secrets of a project at an instant, or when they end already if that is earlier.
UPDATE identity_secrets SET expires_at = least(coalesce(expires_at, $2), $2)
WHERE project_id = $1;

-- name: delete_expired_identity_secrets
-- Forgets secrets of a project that have ended.
DELETE FROM identity_secrets
WHERE project_id = $1 AND expires_at <= $2;

-- name: insert_identity_secret
-- Adds a secret that has no end.
INSERT INTO identity_secrets (project_id, identity_secret_id, sealed_secret, created_at)
VALUES ($1, $2, $3, $4);
