-- name: take_over_user
-- Say that a user is another one by now, and with them every id that stood for the first. Nothing when they are one already.
WITH target AS (
    SELECT coalesce(
        (SELECT l.user_id FROM identity_links AS l WHERE l.project_id = $1 AND l.kind = 'USER_ID' AND l.alias = $3),
        $3
    ) AS user_id
),
moved AS (
    UPDATE identity_links AS l SET user_id = target.user_id
    FROM target
    WHERE l.project_id = $1 AND l.user_id = $2 AND target.user_id <> $2
)
INSERT INTO identity_links (project_id, kind, alias, user_id, linked_seq)
SELECT $1, 'USER_ID', $2, target.user_id, $4
FROM target
WHERE target.user_id <> $2
ON CONFLICT (project_id, kind, alias) DO NOTHING;

-- name: is_retired
-- Whether a user was taken over: what they did is another one's.
SELECT EXISTS (
    SELECT FROM identity_links WHERE project_id = $1 AND kind = 'USER_ID' AND alias = $2
) AS is_retired;
