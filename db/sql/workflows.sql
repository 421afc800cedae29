-- name: hold_workflows
-- Lets nobody else make or change a workflow of a project until the transaction ends.
SELECT project_id
FROM projects
WHERE project_id = $1
FOR NO KEY UPDATE;

-- name: count_workflows
-- How many workflows a project has.
SELECT count(*) AS count
FROM workflows
WHERE project_id = $1 AND deleted_at IS NULL;

-- name: insert_workflow
-- Makes a workflow with its first version; switched on, what the log holds from now on starts it.
WITH made AS (
    INSERT INTO workflows (
        project_id, workflow_id, name, is_active, version, after_seq, next_due_at, created_at, updated_at
    )
    SELECT $1, $2, $3, $4, 1, h.head, $6, $7, $7
    FROM heads AS h
    WHERE h.project_id = $1 AND h.lane = 1
    RETURNING project_id, workflow_id, version, created_at
)
INSERT INTO workflow_versions (project_id, workflow_id, version, definition, created_at)
SELECT project_id, workflow_id, version, CAST($5 AS json), created_at
FROM made;

-- name: insert_workflow_version
-- Adds a version to a workflow, which from then on has its name and takes it for new runs.
WITH changed AS (
    UPDATE workflows
    SET name = $4, version = $3, updated_at = $6
    WHERE project_id = $1 AND workflow_id = $2
    RETURNING project_id, workflow_id, version
)
INSERT INTO workflow_versions (project_id, workflow_id, version, definition, created_at)
SELECT project_id, workflow_id, version, CAST($5 AS json), $6
FROM changed;

-- name: set_workflow_standing
-- Switches workflows on or off and says when they are due; those switched on begin with what comes from now on.
UPDATE workflows AS w
SET
    is_active = $3,
    after_seq = CASE WHEN $3 AND NOT w.is_active THEN h.head ELSE w.after_seq END,
    next_due_at = $4,
    enrolling_due_at = CASE WHEN CAST($4 AS timestamptz) IS NULL THEN NULL ELSE w.enrolling_due_at END,
    enrolled_up_to = CASE WHEN CAST($4 AS timestamptz) IS NULL THEN NULL ELSE w.enrolled_up_to END,
    updated_at = $5
FROM heads AS h
WHERE w.project_id = $1 AND w.workflow_id = $2 AND h.project_id = $1 AND h.lane = 1;

-- name: set_workflow_paused
-- Pauses or resumes a workflow, and says what a worker has to do to its runs.
UPDATE workflows
SET is_paused = $3, pending_change = $4, updated_at = $5
WHERE project_id = $1 AND workflow_id = $2;

-- name: delete_workflow
-- Takes a workflow out of all lists, and has a worker cancel its runs.
UPDATE workflows
SET
    deleted_at = $3,
    is_active = false,
    pending_change = 'CANCEL',
    next_due_at = NULL,
    enrolling_due_at = NULL,
    enrolled_up_to = NULL,
    updated_at = $3
WHERE project_id = $1 AND workflow_id = $2 AND deleted_at IS NULL;

-- name: end_pending_change
-- Notes that a worker has done to a workflow's runs what was to be done, unless something else is by now.
UPDATE workflows
SET pending_change = NULL
WHERE project_id = $1 AND workflow_id = $2 AND pending_change = $3
RETURNING workflow_id;

-- name: lock_workflow
-- One workflow that was not deleted, locked until the transaction ends.
SELECT
    project_id, workflow_id, name, is_active, is_paused, version, after_seq, pending_change, next_due_at,
    enrolling_due_at, enrolled_up_to, deleted_at
FROM workflows
WHERE project_id = $1 AND workflow_id = $2 AND deleted_at IS NULL
FOR NO KEY UPDATE;

-- name: share_workflows
-- Workflows as they stand, deleted ones included, locked against changes in the order of their ids.
SELECT
    project_id, workflow_id, name, is_active, is_paused, version, after_seq, pending_change, next_due_at,
    enrolling_due_at, enrolled_up_to, deleted_at
FROM workflows
WHERE project_id = $1 AND workflow_id = ANY($2)
ORDER BY workflow_id
FOR SHARE;

-- name: read_workflows
-- Workflows by their ids, deleted ones included, each with its newest version.
SELECT
    w.project_id, w.workflow_id, w.name, w.is_active, w.is_paused, w.version, v.definition, w.after_seq,
    w.pending_change, w.next_due_at, w.created_at, w.updated_at, w.deleted_at
FROM workflows AS w
JOIN workflow_versions AS v
    ON v.project_id = w.project_id AND v.workflow_id = w.workflow_id AND v.version = w.version
WHERE w.project_id = $1 AND w.workflow_id = ANY($2);

-- name: find_workflow_names
-- Which of some names are taken, and by which workflow.
SELECT name, workflow_id
FROM workflows
WHERE project_id = $1 AND name = ANY($2) AND deleted_at IS NULL;

-- name: list_workflows
-- A project's workflows from the newest on, between two of them, each with its newest version.
SELECT
    w.project_id, w.workflow_id, w.name, w.is_active, w.is_paused, w.version, v.definition, w.after_seq,
    w.pending_change, w.next_due_at, w.created_at, w.updated_at, w.deleted_at
FROM workflows AS w
JOIN workflow_versions AS v
    ON v.project_id = w.project_id AND v.workflow_id = w.workflow_id AND v.version = w.version
WHERE w.project_id = $1 AND w.deleted_at IS NULL
    AND (CAST($2 AS uuid) IS NULL OR w.workflow_id < $2)
    AND (CAST($3 AS uuid) IS NULL OR w.workflow_id > $3)
    AND (CAST($4 AS text) IS NULL OR strpos(lower(w.name), lower($4)) > 0)
    AND (CAST($5 AS boolean) IS NULL OR w.is_active = $5)
ORDER BY w.workflow_id DESC
LIMIT $6;

-- name: list_workflows_backwards
-- The same from the oldest on.
SELECT
    w.project_id, w.workflow_id, w.name, w.is_active, w.is_paused, w.version, v.definition, w.after_seq,
    w.pending_change, w.next_due_at, w.created_at, w.updated_at, w.deleted_at
FROM workflows AS w
JOIN workflow_versions AS v
    ON v.project_id = w.project_id AND v.workflow_id = w.workflow_id AND v.version = w.version
WHERE w.project_id = $1 AND w.deleted_at IS NULL
    AND (CAST($2 AS uuid) IS NULL OR w.workflow_id < $2)
    AND (CAST($3 AS uuid) IS NULL OR w.workflow_id > $3)
    AND (CAST($4 AS text) IS NULL OR strpos(lower(w.name), lower($4)) > 0)
    AND (CAST($5 AS boolean) IS NULL OR w.is_active = $5)
ORDER BY w.workflow_id
LIMIT $6;

-- name: read_workflow_versions
-- Versions of workflows, by id and number.
SELECT v.project_id, v.workflow_id, v.version, v.definition, v.created_at
FROM unnest(CAST($2 AS uuid[]), CAST($3 AS integer[])) AS wanted (workflow_id, version)
JOIN workflow_versions AS v
    ON v.project_id = $1 AND v.workflow_id = wanted.workflow_id AND v.version = wanted.version;

-- name: read_active_triggers
-- What starts a project's workflows that are on: the trigger of each one's newest version, unless it is known.
SELECT
    w.workflow_id, w.version, w.after_seq, CASE WHEN k.version IS NULL THEN v.definition -> 'trigger' END AS trigger
FROM workflows AS w
LEFT JOIN unnest(CAST($2 AS uuid[]), CAST($3 AS integer[])) AS k (workflow_id, version)
    ON k.workflow_id = w.workflow_id AND k.version = w.version
JOIN workflow_versions AS v
    ON v.project_id = w.project_id AND v.workflow_id = w.workflow_id AND v.version = w.version
WHERE w.project_id = $1 AND w.is_active AND w.deleted_at IS NULL
ORDER BY w.workflow_id;

-- name: bump_generation
-- Notes that what starts a project's runs has changed.
INSERT INTO workflow_generations AS g (project_id, generation)
VALUES ($1, 1)
ON CONFLICT (project_id) DO UPDATE SET generation = g.generation + 1;

-- name: read_generation
-- How often what starts a project's runs has changed; no row when it never has.
SELECT generation
FROM workflow_generations
WHERE project_id = $1;
