-- name: insert_audience
-- Makes an audience.
INSERT INTO audiences (project_id, audience_id, name, conditions, created_at, updated_at)
VALUES ($1, $2, $3, CAST($4 AS text)::json, $5, $5)
RETURNING project_id, audience_id, name, conditions, created_at, updated_at;

-- name: lock_audience
-- An audience, locked until the transaction ends.
SELECT project_id, audience_id, name, conditions, created_at, updated_at
FROM audiences
WHERE project_id = $1 AND audience_id = $2 AND deleted_at IS NULL
FOR NO KEY UPDATE;

-- name: update_audience
-- Replaces an audience that the transaction has locked; where it asks for something else, everybody is to be looked at.
UPDATE audiences
SET
    name = $3,
    conditions = CAST($4 AS text)::json,
    updated_at = $5,
    revision = revision + 1,
    is_building = is_building OR CAST(conditions AS text) <> $4,
    built_up_to = CASE WHEN CAST(conditions AS text) <> $4 THEN NULL ELSE built_up_to END
WHERE project_id = $1 AND audience_id = $2
RETURNING project_id, audience_id, name, conditions, created_at, updated_at;

-- name: find_audience_names
-- Whose some names are.
SELECT name, audience_id
FROM audiences
WHERE project_id = $1 AND name = ANY($2) AND deleted_at IS NULL;

-- name: delete_audience
-- Takes an audience that the transaction has locked out of every list; a worker forgets who belonged to it.
UPDATE audiences SET deleted_at = $3, is_building = true, built_up_to = NULL
WHERE project_id = $1 AND audience_id = $2;

-- name: read_audiences
-- Audiences of a project by id.
SELECT project_id, audience_id, name, conditions, created_at, updated_at
FROM audiences
WHERE project_id = $1 AND audience_id = ANY($2) AND deleted_at IS NULL;

-- name: read_audiences_ever
-- Audiences of a project by id, those that were deleted included.
SELECT project_id, audience_id, name, conditions, created_at, updated_at
FROM audiences
WHERE project_id = $1 AND audience_id = ANY($2);

-- name: read_audiences_of_people
-- The audiences that some people belonged to when it was last looked at, by name.
SELECT m.user_id, a.project_id, a.audience_id, a.name, a.conditions, a.created_at, a.updated_at
FROM audience_members AS m
JOIN audiences AS a ON a.project_id = m.project_id AND a.audience_id = m.audience_id AND a.deleted_at IS NULL
WHERE m.project_id = $1 AND m.user_id = ANY($2)
ORDER BY a.name;

-- name: read_all_audiences
-- Every audience of a project, by name.
SELECT project_id, audience_id, name, conditions, created_at, updated_at
FROM audiences
WHERE project_id = $1 AND deleted_at IS NULL
ORDER BY name;

-- name: list_audiences
-- Audiences of a project by name, after a name if one is given, those with a text in their name if one is given.
SELECT project_id, audience_id, name, conditions, created_at, updated_at
FROM audiences
WHERE project_id = $1 AND deleted_at IS NULL
    AND (CAST($2 AS text) IS NULL OR name > $2)
    AND (CAST($3 AS text) IS NULL OR strpos(lower(name), lower($3)) > 0)
ORDER BY name
LIMIT $4;

-- name: hold_audiences
-- Lets nobody else make or rename an audience of a project until the transaction ends.
SELECT project_id
FROM projects
WHERE project_id = $1
FOR NO KEY UPDATE;

-- name: count_audiences
-- How many audiences a project has.
SELECT count(*) AS count
FROM audiences
WHERE project_id = $1 AND deleted_at IS NULL;

-- name: find_workflows_of_audience
-- The names of the workflows that are on and start for the members of an audience, some of them.
SELECT w.name
FROM workflows AS w
JOIN workflow_versions AS v
    ON v.project_id = w.project_id AND v.workflow_id = w.workflow_id AND v.version = w.version
WHERE w.project_id = $1 AND w.is_active AND w.deleted_at IS NULL
    AND v.definition -> 'trigger' ->> 'audience_id' = $2
ORDER BY w.name
LIMIT $3;

-- name: find_insights_of_audience
-- The names of the insights that ask about the members of an audience, given by its node id, some of them.
SELECT name
FROM insights
WHERE project_id = $1 AND input ->> 'audienceId' = $2
ORDER BY name
LIMIT $3;

-- name: share_audiences
-- The audiences of some that are there, which stay until the transaction ends.
SELECT audience_id
FROM audiences
WHERE project_id = $1 AND audience_id = ANY($2) AND deleted_at IS NULL
ORDER BY audience_id
FOR SHARE;
