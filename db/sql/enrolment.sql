-- name: find_met
-- Which of some people have met which of some workflows before: ever, or only in a run that still goes on.
SELECT given.workflow_id, given.user_id
FROM unnest(CAST($2 AS uuid[]), CAST($3 AS text[]), CAST($4 AS boolean[]))
    AS given (workflow_id, user_id, only_going_on)
CROSS JOIN LATERAL (
    SELECT FROM workflow_runs AS r
    WHERE r.project_id = $1 AND r.user_id = given.user_id AND r.workflow_id = given.workflow_id
        AND (NOT given.only_going_on OR r.status IN ('QUEUED', 'RUNNING', 'PAUSED'))
    LIMIT 1
) AS met;

-- name: find_due_schedules
-- The projects that have a workflow whose schedule is due.
SELECT DISTINCT project_id
FROM (
    SELECT project_id
    FROM workflows
    WHERE next_due_at <= $1
    ORDER BY next_due_at
    LIMIT $2
) AS due;

-- name: find_due_workflows
-- The workflows of a project whose schedules are due, those that wait longest first.
SELECT
    project_id, workflow_id, name, is_active, is_paused, version, after_seq, pending_change, next_due_at,
    enrolling_due_at, enrolled_up_to, deleted_at
FROM workflows
WHERE project_id = $1 AND next_due_at <= $2
ORDER BY next_due_at, workflow_id
LIMIT $3;

-- name: save_enrolment
-- Says how far a workflow's schedule has been carried out, and when it is due next.
UPDATE workflows
SET next_due_at = $3, enrolling_due_at = $4, enrolled_up_to = $5
WHERE project_id = $1 AND workflow_id = $2;
