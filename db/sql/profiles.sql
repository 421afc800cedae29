-- name: read_profiles_by_user
-- The profiles of some users of a project.
SELECT p.project_id, p.profile_id, p.user_id, p.anonymous, p.traits, p.created_at, seen.timestamp AS last_seen_at
FROM profiles AS p
LEFT JOIN LATERAL (
    SELECT e.timestamp FROM events AS e
    WHERE e.project_id = p.project_id AND e.user_id = p.user_id
    ORDER BY e.seq DESC
    LIMIT 1
) AS seen ON true
WHERE p.project_id = $1 AND p.user_id = ANY($2);

-- name: read_profiles
-- Profiles of a project by id.
SELECT p.project_id, p.profile_id, p.user_id, p.anonymous, p.traits, p.created_at, seen.timestamp AS last_seen_at
FROM profiles AS p
LEFT JOIN LATERAL (
    SELECT e.timestamp FROM events AS e
    WHERE e.project_id = p.project_id AND e.user_id = p.user_id
    ORDER BY e.seq DESC
    LIMIT 1
) AS seen ON true
WHERE p.project_id = $1 AND p.profile_id = ANY($2);

-- name: ensure_profile
-- Makes a user's profile, unless there is one.
INSERT INTO profiles (project_id, profile_id, user_id, created_at)
VALUES ($1, $3, $2, clock_timestamp())
ON CONFLICT DO NOTHING;

-- name: share_profiles
-- The users who have a profile, which stays as it is until the transaction ends.
SELECT user_id
FROM profiles
WHERE project_id = $1 AND user_id = ANY($2)
ORDER BY user_id
FOR SHARE;

-- name: lock_profiles
-- The users who have a profile, locked against everyone who shares or locks it.
SELECT user_id
FROM profiles
WHERE project_id = $1 AND user_id = ANY($2)
ORDER BY user_id
FOR NO KEY UPDATE;
