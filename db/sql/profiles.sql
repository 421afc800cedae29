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
