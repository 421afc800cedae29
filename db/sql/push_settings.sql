-- name: read_push_settings
-- What a project has set for push.
SELECT
    quiet_hours_start_local, quiet_hours_end_local, defer_in_quiet_hours, freq_cap_per_user_per_day,
    freq_cap_per_user_per_hour
FROM push_settings
WHERE project_id = $1;

-- name: insert_push_settings
-- Makes a project's settings for push, unless there are some.
INSERT INTO push_settings (project_id) VALUES ($1)
ON CONFLICT DO NOTHING;

-- name: lock_push_settings
-- The same, locked.
SELECT
    quiet_hours_start_local, quiet_hours_end_local, defer_in_quiet_hours, freq_cap_per_user_per_day,
    freq_cap_per_user_per_hour
FROM push_settings
WHERE project_id = $1
FOR NO KEY UPDATE;

-- name: write_push_settings
-- Replaces a project's settings for push.
UPDATE push_settings
SET quiet_hours_start_local = $2, quiet_hours_end_local = $3, defer_in_quiet_hours = $4,
    freq_cap_per_user_per_day = $5, freq_cap_per_user_per_hour = $6
WHERE project_id = $1;
