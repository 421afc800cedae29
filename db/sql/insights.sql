-- name: insert_insight
-- Makes an insight.
INSERT INTO insights (project_id, insight_id, name, kind, input, created_at, updated_at)
VALUES ($1, $2, $3, $4, CAST($5 AS text)::json, $6, $6)
RETURNING project_id, insight_id, name, kind, input, updated_at;

-- name: lock_insight
-- An insight, locked until the transaction ends.
SELECT project_id, insight_id, name, kind, input, updated_at
FROM insights
WHERE project_id = $1 AND insight_id = $2
FOR UPDATE;

-- name: update_insight
-- Replaces an insight that the transaction has locked.
UPDATE insights
SET name = $3, kind = $4, input = CAST($5 AS text)::json, updated_at = $6
WHERE project_id = $1 AND insight_id = $2
RETURNING project_id, insight_id, name, kind, input, updated_at;

-- name: delete_insight
-- Deletes an insight that the transaction has locked.
DELETE FROM insights
WHERE project_id = $1 AND insight_id = $2;

-- name: find_insight_name
-- Whose a name is.
SELECT insight_id
FROM insights
WHERE project_id = $1 AND name = $2;

-- name: count_insights
-- How many insights a project has.
SELECT count(*) AS count
FROM insights
WHERE project_id = $1;

-- name: read_insights
-- Insights of a project by id.
SELECT project_id, insight_id, name, kind, input, updated_at
FROM insights
WHERE project_id = $1 AND insight_id = ANY($2);

-- name: share_insights
-- The insights of some that are there, which stay until the transaction ends.
SELECT insight_id
FROM insights
WHERE project_id = $1 AND insight_id = ANY($2)
ORDER BY insight_id
FOR SHARE;

-- name: list_insights
-- Insights of a project by name, after a name if one is given, those with a text in their name if one is given.
SELECT project_id, insight_id, name, kind, input, updated_at
FROM insights
WHERE project_id = $1
    AND (CAST($2 AS text) IS NULL OR name > $2)
    AND (CAST($3 AS text) IS NULL OR strpos(lower(name), lower($3)) > 0)
ORDER BY name
LIMIT $4;

-- name: hold_insights
-- Lets nobody else make or rename an insight or a board of a project until the transaction ends.
SELECT project_id
FROM projects
WHERE project_id = $1
FOR NO KEY UPDATE;
