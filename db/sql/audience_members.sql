-- name: hold_follower
-- Takes the lock under which everything is written that is known of a project's audiences.
SELECT position
FROM log_followers
WHERE project_id = $1 AND follower = $2 AND lane = 1
FOR NO KEY UPDATE;

-- name: read_audience_revisions
-- What a project's audiences are as of which revision.
SELECT audience_id, revision
FROM audiences
WHERE project_id = $1 AND deleted_at IS NULL
ORDER BY audience_id;

-- name: find_newcomers
-- Those of some people whom no event before a position names.
SELECT asked.user_id
FROM unnest(CAST($2 AS text[])) AS asked (user_id)
WHERE (
    SELECT e.seq FROM events AS e
    WHERE e.project_id = $1 AND e.user_id = asked.user_id
    ORDER BY e.seq
    LIMIT 1
) >= $3;

-- name: read_kept
-- What is kept of some pairs of an audience and a person.
SELECT asked.audience_id, asked.user_id,
    (
        SELECT true FROM audience_members AS m
        WHERE m.project_id = $1 AND m.audience_id = asked.audience_id AND m.user_id = asked.user_id
    ) IS NOT NULL AS is_member,
    (
        SELECT r.recheck_at FROM audience_rechecks AS r
        WHERE r.project_id = $1 AND r.audience_id = asked.audience_id AND r.user_id = asked.user_id
    ) AS recheck_at
FROM unnest(CAST($2 AS uuid[]), CAST($3 AS text[])) AS asked (audience_id, user_id);

-- name: hold_people
-- Those of some people who are there, and stay until the transaction ends.
SELECT user_id
FROM profiles
WHERE project_id = $1 AND user_id = ANY($2)
ORDER BY user_id
FOR KEY SHARE;

-- name: insert_members
-- Keeps that people belong to audiences.
INSERT INTO audience_members (project_id, audience_id, user_id, entered_at)
SELECT $1, input.audience_id, input.user_id, $4
FROM unnest(CAST($2 AS uuid[]), CAST($3 AS text[])) AS input (audience_id, user_id);

-- name: delete_members
-- Keeps that people do not belong to audiences any more.
DELETE FROM audience_members AS m
USING unnest(CAST($2 AS uuid[]), CAST($3 AS text[])) AS input (audience_id, user_id)
WHERE m.project_id = $1 AND m.audience_id = input.audience_id AND m.user_id = input.user_id;

-- name: write_rechecks
-- Says when people are to be looked at again.
INSERT INTO audience_rechecks (project_id, audience_id, user_id, recheck_at)
SELECT $1, input.audience_id, input.user_id, input.recheck_at
FROM unnest(CAST($2 AS uuid[]), CAST($3 AS text[]), CAST($4 AS timestamptz[]))
    AS input (audience_id, user_id, recheck_at)
ON CONFLICT (project_id, audience_id, user_id) DO UPDATE SET recheck_at = excluded.recheck_at;

-- name: delete_rechecks
-- Says that people need not be looked at again.
DELETE FROM audience_rechecks AS r
USING unnest(CAST($2 AS uuid[]), CAST($3 AS text[])) AS input (audience_id, user_id)
WHERE r.project_id = $1 AND r.audience_id = input.audience_id AND r.user_id = input.user_id;

-- name: find_rechecks
-- The pairs of an audience and a person of a project that are due to be looked at, the longest due first.
SELECT audience_id, user_id
FROM audience_rechecks
WHERE project_id = $1 AND recheck_at <= $2
ORDER BY recheck_at
LIMIT $3;

-- name: find_recheck_projects
-- Projects with somebody who is due to be looked at.
SELECT DISTINCT due.project_id
FROM (
    SELECT project_id FROM audience_rechecks WHERE recheck_at <= $1 ORDER BY recheck_at LIMIT $2
) AS due;

-- name: find_building_projects
-- The projects with an audience for which everybody is still to be looked at, or that is to be forgotten.
SELECT DISTINCT project_id
FROM audiences
WHERE is_building;

-- name: lock_building
-- An audience of a project for which everybody is still to be looked at, or that is to be forgotten; locked.
SELECT audience_id, conditions, built_up_to, deleted_at IS NOT NULL AS is_deleted
FROM audiences
WHERE project_id = $1 AND is_building
ORDER BY audience_id
LIMIT 1
FOR NO KEY UPDATE;

-- name: move_building
-- Says how far that is done.
UPDATE audiences SET built_up_to = $3, is_building = $4
WHERE project_id = $1 AND audience_id = $2;

-- name: page_people
-- People by user id, after one.
SELECT user_id
FROM profiles
WHERE project_id = $1 AND user_id > $2
ORDER BY user_id
LIMIT $3;

-- name: page_kept_people
-- People of whom something is kept for an audience, by user id, after one.
SELECT kept.user_id
FROM (
    (
        SELECT m.user_id FROM audience_members AS m
        WHERE m.project_id = $1 AND m.audience_id = $2 AND m.user_id > $3
        ORDER BY m.user_id
        LIMIT $4
    )
    UNION
    (
        SELECT r.user_id FROM audience_rechecks AS r
        WHERE r.project_id = $1 AND r.audience_id = $2 AND r.user_id > $3
        ORDER BY r.user_id
        LIMIT $4
    )
) AS kept
ORDER BY kept.user_id
LIMIT $4;

-- name: rebuild_audiences
-- Has everybody looked at anew for all audiences of a project.
UPDATE audiences SET is_building = true, built_up_to = NULL
WHERE project_id = $1 AND deleted_at IS NULL;
