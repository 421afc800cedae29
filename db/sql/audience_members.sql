-- name: hold_follower
-- Takes the lock under which everything is written that is known of a project's audiences.
SELECT position
FROM log_followers
WHERE project_id = $1 AND follower = $2 AND lane = 1
FOR NO KEY UPDATE;

-- name: read_audience_revisions
-- What a project's audiences are as of which revision, and from where on its log has events.
SELECT a.audience_id, a.revision, h.epoch, h.first_seq
FROM audiences AS a
JOIN heads AS h ON h.project_id = a.project_id AND h.lane = 1
WHERE a.project_id = $1 AND a.deleted_at IS NULL
ORDER BY a.audience_id;

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

-- name: read_people
-- What conditions read of some people, as of one head of the log, and what is kept of them.
-- Each is looked up: a plan for a project that looked small when it was made would go through all of its people.
SELECT
    (SELECT h.head FROM heads AS h WHERE h.project_id = $1 AND h.lane = 1) AS head,
    p.project_id, p.profile_id, p.user_id, p.anonymous, p.traits, p.created_at,
    CASE WHEN $3 THEN (
        SELECT e.timestamp FROM events AS e
        WHERE e.project_id = $1 AND e.user_id = p.user_id
        ORDER BY e.seq DESC
        LIMIT 1
    ) END AS last_seen_at,
    CASE WHEN $4 THEN (
        SELECT jsonb_object_agg(lower(c.purpose), c.state) FROM consents AS c
        WHERE c.project_id = $1 AND c.user_id = p.user_id
    ) END AS said,
    ARRAY(
        SELECT m.audience_id FROM audience_members AS m
        WHERE m.project_id = $1 AND m.user_id = p.user_id
    ) AS audience_ids,
    (
        SELECT r.recheck_at FROM audience_rechecks AS r
        WHERE r.project_id = $1 AND r.user_id = p.user_id
    ) AS recheck_at
FROM unnest(CAST($2 AS text[])) AS asked (user_id)
CROSS JOIN LATERAL (
    SELECT found.project_id, found.profile_id, found.user_id, found.anonymous, found.traits, found.created_at
    FROM profiles AS found
    WHERE found.project_id = $1 AND found.user_id = asked.user_id
    LIMIT 1
) AS p;

-- name: read_kept
-- What is kept of some people for one audience.
SELECT asked.user_id,
    EXISTS (
        SELECT FROM audience_members AS m
        WHERE m.project_id = $1 AND m.audience_id = $2 AND m.user_id = asked.user_id
    ) AS is_member,
    (
        SELECT r.recheck_at FROM audience_rechecks AS r
        WHERE r.project_id = $1 AND r.user_id = asked.user_id
    ) AS recheck_at
FROM unnest(CAST($3 AS text[])) AS asked (user_id);

-- name: read_counted
-- The events of some people after a position of each, up to one for all, that are of some types; so many of each.
-- Positions are compared with the user: a plan for a log that looked small would go through what others did.
SELECT
    asked.ordinal, e.project_id, e.seq, e.key, e.module, e.event_type, e.timestamp, e.received_at, e.user_id,
    e.anonymous_id, e.properties, e.context
FROM unnest(CAST($2 AS text[]), CAST($3 AS bigint[])) WITH ORDINALITY AS asked (user_id, after_seq, ordinal)
CROSS JOIN LATERAL (
    SELECT found.* FROM events AS found
    WHERE found.project_id = $1 AND found.user_id = asked.user_id
        AND (found.user_id, found.seq) > (asked.user_id, asked.after_seq)
        AND (found.user_id, found.seq) <= (asked.user_id, $4)
        AND (found.event_type = ANY($5) OR found.event_type LIKE ANY($6))
        AND (CAST($7 AS timestamptz) IS NULL OR found.timestamp >= $7)
    ORDER BY found.seq
    LIMIT $8
) AS e;

-- name: hold_people
-- Those of some people, given in order, who are there, and stay until the transaction ends. Each is looked up.
SELECT p.user_id
FROM unnest(CAST($2 AS text[])) AS asked (user_id)
CROSS JOIN LATERAL (
    SELECT found.user_id FROM profiles AS found
    WHERE found.project_id = $1 AND found.user_id = asked.user_id
    LIMIT 1
    FOR KEY SHARE
) AS p;

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
INSERT INTO audience_rechecks (project_id, user_id, recheck_at)
SELECT $1, input.user_id, input.recheck_at
FROM unnest(CAST($2 AS text[]), CAST($3 AS timestamptz[])) AS input (user_id, recheck_at)
ON CONFLICT (project_id, user_id) DO UPDATE SET recheck_at = excluded.recheck_at;

-- name: delete_rechecks
-- Says that people need not be looked at again.
DELETE FROM audience_rechecks
WHERE project_id = $1 AND user_id = ANY($2);

-- name: find_rechecks
-- The people of a project who are due to be looked at, the longest due first.
SELECT user_id
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

-- name: page_members
-- People who are kept as belonging to an audience, by user id, after one.
SELECT user_id
FROM audience_members
WHERE project_id = $1 AND audience_id = $2 AND user_id > $3
ORDER BY user_id
LIMIT $4;

-- name: rebuild_audiences
-- Has everybody looked at anew for all audiences of a project.
UPDATE audiences SET is_building = true, built_up_to = NULL
WHERE project_id = $1 AND deleted_at IS NULL;
