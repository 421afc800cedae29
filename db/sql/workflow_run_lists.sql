-- name: read_first_deliveries
-- The first delivery that each step of some runs made.
SELECT DISTINCT ON (d.workflow_run_id, d.workflow_step_number)
    d.workflow_run_id AS run_id, d.workflow_step_number AS number, d.delivery_id
FROM deliveries AS d
WHERE d.project_id = $1 AND d.workflow_run_id = ANY($2) AND d.workflow_step_number IS NOT NULL
ORDER BY d.workflow_run_id, d.workflow_step_number, d.delivery_id;

-- name: read_run_deliveries
-- The first deliveries of some runs, some of each.
SELECT found.run_id, found.number, found.delivery_id
FROM unnest(CAST($2 AS uuid[])) AS wanted (run_id)
CROSS JOIN LATERAL (
    SELECT d.workflow_run_id AS run_id, coalesce(d.workflow_step_number, 0) AS number, d.delivery_id
    FROM deliveries AS d
    WHERE d.project_id = $1 AND d.workflow_run_id = wanted.run_id
    ORDER BY d.delivery_id
    LIMIT $3
) AS found
ORDER BY found.run_id, found.delivery_id;
