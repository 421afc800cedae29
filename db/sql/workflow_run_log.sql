-- name: append_run_updates
-- Appends to a project's runs lane; see the function.
SELECT epoch, previous_head FROM append_workflow_run_updates($1, $2, $3, $4, $5, $6, $7, $8);
