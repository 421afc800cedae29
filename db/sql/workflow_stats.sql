-- name: count_runs_by_status
-- How many runs of some workflows, started since an instant, have each status.
SELECT r.workflow_id, r.status, count(*) AS runs
FROM workflow_runs AS r
WHERE r.project_id = $1 AND r.workflow_id = ANY($2)
    AND r.started_at >= coalesce(CAST($3 AS timestamptz), '-infinity')
GROUP BY r.workflow_id, r.status;

-- name: count_outcomes
-- How the steps of some workflows ended that began since an instant, by label.
SELECT s.workflow_id, s.label, s.outcome, count(*) AS steps
FROM workflow_run_steps AS s
WHERE s.project_id = $1 AND s.workflow_id = ANY($2) AND s.outcome IS NOT NULL
    AND s.started_at >= coalesce(CAST($3 AS timestamptz), '-infinity')
GROUP BY s.workflow_id, s.label, s.outcome
ORDER BY s.workflow_id, s.label, s.outcome;
