-- name: register_live_activity
-- Keeps the token of a running activity, or of a type that can be started (activity id NULL).
INSERT INTO live_activities AS l (
    project_id, live_activity_id, push_token_id, activity_id, attributes_type, token, state, created_at, updated_at
)
VALUES ($1, $2, $3, CAST($4 AS text), $5, $6, CASE WHEN CAST($4 AS text) IS NULL THEN 'STARTABLE' ELSE 'ACTIVE' END, $7, $7)
ON CONFLICT (project_id, push_token_id, attributes_type, activity_id) DO UPDATE
SET token = excluded.token, state = excluded.state, updated_at = excluded.updated_at
RETURNING project_id, live_activity_id, push_token_id, activity_id, attributes_type, token, state, created_at, updated_at;

-- name: share_live_activities
-- What some devices have of some activities, locked, in the order of their ids.
SELECT
    l.project_id, l.live_activity_id, l.push_token_id, l.activity_id, l.attributes_type, l.token, l.state,
    l.created_at, l.updated_at
FROM unnest(CAST($2 AS uuid[]), CAST($3 AS text[]), CAST($4 AS text[]))
    AS wanted (push_token_id, attributes_type, activity_id)
JOIN live_activities AS l
    ON l.push_token_id = wanted.push_token_id
    AND l.attributes_type = wanted.attributes_type
    AND l.activity_id IS NOT DISTINCT FROM wanted.activity_id
WHERE l.project_id = $1
ORDER BY l.live_activity_id
FOR SHARE OF l;

-- name: begin_live_activities
-- Keeps that activities were started on devices, unless these have given their tokens already.
INSERT INTO live_activities AS l (
    project_id, live_activity_id, push_token_id, activity_id, attributes_type, state, created_at, updated_at
)
SELECT $1, live_activity_id, push_token_id, activity_id, attributes_type, 'STARTING', $6, $6
FROM unnest(CAST($2 AS uuid[]), CAST($3 AS uuid[]), CAST($4 AS text[]), CAST($5 AS text[]))
    AS started (live_activity_id, push_token_id, activity_id, attributes_type)
ORDER BY push_token_id, attributes_type, activity_id
ON CONFLICT (project_id, push_token_id, attributes_type, activity_id) DO UPDATE
SET state = 'STARTING', token = NULL, updated_at = excluded.updated_at
WHERE l.state IN ('ENDED', 'INVALIDATED');

-- name: end_live_activities
-- Keeps that activities are over, or their tokens dead, unless they have got other tokens since; gives those it changed.
WITH change AS (
    SELECT push_token_id, attributes_type, activity_id, token, state
    FROM unnest(CAST($2 AS uuid[]), CAST($3 AS text[]), CAST($4 AS text[]), CAST($5 AS text[]), CAST($6 AS text[]))
        AS c (push_token_id, attributes_type, activity_id, token, state)
),
locked AS (
    SELECT l.live_activity_id, change.state
    FROM change
    JOIN live_activities AS l
        ON l.push_token_id = change.push_token_id
        AND l.attributes_type = change.attributes_type
        AND l.activity_id IS NOT DISTINCT FROM change.activity_id
        AND l.token = change.token
        AND l.state IN ('STARTABLE', 'ACTIVE')
    WHERE l.project_id = $1
    ORDER BY l.live_activity_id
    FOR NO KEY UPDATE OF l
)
UPDATE live_activities AS l SET state = locked.state, updated_at = $7
FROM locked
WHERE l.project_id = $1 AND l.live_activity_id = locked.live_activity_id
RETURNING l.push_token_id, l.attributes_type, l.activity_id;
