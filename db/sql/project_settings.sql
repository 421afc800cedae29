-- name: read_project_settings
-- What a project has set, and its region; the columns of the settings are NULL where nothing was ever set.
SELECT
    p.region, s.require_signed_identity, s.allow_unknown_consent, s.default_timezone, s.default_locale,
    s.require_trusted_documents
FROM projects AS p
LEFT JOIN project_settings AS s USING (project_id)
WHERE p.project_id = $1;

-- name: insert_project_settings
-- Makes a project's settings as they are by default, unless there are some.
INSERT INTO project_settings (project_id, updated_at) VALUES ($1, $2)
ON CONFLICT DO NOTHING;

-- name: lock_project_settings
-- What a project has set, locked.
SELECT
    p.region, s.require_signed_identity, s.allow_unknown_consent, s.default_timezone, s.default_locale,
    s.require_trusted_documents
FROM projects AS p
JOIN project_settings AS s USING (project_id)
WHERE p.project_id = $1
FOR NO KEY UPDATE OF s;

-- name: write_project_settings
-- Replaces a project's settings.
UPDATE project_settings
SET require_signed_identity = $2, allow_unknown_consent = $3, default_timezone = $4, default_locale = $5,
    require_trusted_documents = $6, updated_at = $7
WHERE project_id = $1;
