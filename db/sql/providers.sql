-- name: insert_provider
-- Makes a provider without settings and secrets unless the project has one of this kind; gives its id if it did.
INSERT INTO providers (project_id, provider_id, kind, created_at, updated_at)
VALUES ($1, $2, $3, $4, $4)
ON CONFLICT (project_id, kind) DO NOTHING
RETURNING provider_id;

-- name: lock_provider
-- The project's provider of one kind, locked until the transaction ends.
SELECT project_id, provider_id, kind, settings, sealed_secrets, last_error, created_at, updated_at
FROM providers
WHERE project_id = $1 AND kind = $2
FOR UPDATE;

-- name: update_provider
-- Replaces a provider's settings and secrets and forgets its last error; `updated_at` always grows.
UPDATE providers
SET
    settings = CAST($3 AS text)::jsonb,
    sealed_secrets = $4,
    last_error = NULL,
    updated_at = GREATEST($5, updated_at + interval '1 microsecond')
WHERE project_id = $1 AND provider_id = $2
RETURNING project_id, provider_id, kind, settings, sealed_secrets, last_error, created_at, updated_at;

-- name: delete_provider
-- Deletes a provider; gives what it was.
DELETE FROM providers
WHERE project_id = $1 AND provider_id = $2
RETURNING project_id, provider_id, kind, settings, sealed_secrets, last_error, created_at, updated_at;

-- name: list_providers
-- All providers of a project, by kind.
SELECT project_id, provider_id, kind, settings, sealed_secrets, last_error, created_at, updated_at
FROM providers
WHERE project_id = $1
ORDER BY kind;

-- name: read_providers
-- Providers of a project by their ids.
SELECT project_id, provider_id, kind, settings, sealed_secrets, last_error, created_at, updated_at
FROM providers
WHERE project_id = $1 AND provider_id = ANY($2);

-- name: read_providers_by_kind
-- A project's providers of some kinds.
SELECT project_id, provider_id, kind, settings, sealed_secrets, last_error, created_at, updated_at
FROM providers
WHERE project_id = $1 AND kind = ANY($2);

-- name: find_provider
-- A provider by its id alone, which is all that its callback address names; it finds the project.
SELECT project_id, provider_id, kind, settings, sealed_secrets, last_error, created_at, updated_at
FROM providers
WHERE provider_id = $1;

-- name: set_provider_error
-- Notes what was last wrong with a provider's account, or that nothing is; writes only when that is news.
UPDATE providers
SET last_error = $3
WHERE project_id = $1 AND provider_id = $2 AND last_error IS DISTINCT FROM $3;
