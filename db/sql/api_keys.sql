-- name: insert_api_key
-- Makes an API key.
INSERT INTO api_keys (api_key_id, project_id, name, kind, environment, role, prefix, token_hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
RETURNING api_key_id, project_id, name, kind, environment, role, prefix, created_at, last_used_at, revoked_at;

-- name: find_api_key
-- The API key with a token, revoked or not.
SELECT api_key_id, project_id, name, kind, environment, role, prefix, created_at, last_used_at, revoked_at
FROM api_keys
WHERE token_hash = $1;

-- name: read_api_keys
-- API keys of a project by id.
SELECT api_key_id, project_id, name, kind, environment, role, prefix, created_at, last_used_at, revoked_at
FROM api_keys
WHERE project_id = $1 AND api_key_id = ANY($2)
ORDER BY api_key_id;

-- name: list_api_keys
-- All API keys of a project, oldest first.
SELECT api_key_id, project_id, name, kind, environment, role, prefix, created_at, last_used_at, revoked_at
FROM api_keys
WHERE project_id = $1
ORDER BY created_at, api_key_id;

-- name: revoke_api_key
-- Revokes a key; gives a row only when it was not revoked before.
UPDATE api_keys SET revoked_at = clock_timestamp()
WHERE project_id = $1 AND api_key_id = $2 AND revoked_at IS NULL
RETURNING api_key_id;

-- name: touch_api_keys
-- Notes that keys are in use, at most once a minute each; a row that another gateway holds is left to it.
UPDATE api_keys SET last_used_at = clock_timestamp()
WHERE api_key_id IN (
    SELECT api_key_id FROM api_keys
    WHERE api_key_id = ANY($1)
        AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '1 minute')
    ORDER BY api_key_id
    FOR NO KEY UPDATE SKIP LOCKED
);
