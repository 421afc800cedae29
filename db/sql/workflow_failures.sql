-- name: forget_failures
-- No run of these workflows has failed last.
DELETE FROM workflow_failures
WHERE project_id = $1 AND workflow_id = ANY($2);

-- name: count_failures
-- Adds to the runs that failed one after another, by workflow; how many that are now.
INSERT INTO workflow_failures AS f (project_id, workflow_id, consecutive)
SELECT $1, given.workflow_id, given.failed
FROM unnest(CAST($2 AS uuid[]), CAST($3 AS integer[])) AS given (workflow_id, failed)
ORDER BY given.workflow_id
ON CONFLICT (project_id, workflow_id) DO UPDATE
SET consecutive = f.consecutive + excluded.consecutive
RETURNING workflow_id, consecutive;
