-- name: insert_inbound_endpoint
-- Makes an inbound endpoint, unless the project has as many as it may.
INSERT INTO inbound_endpoints (project_id, endpoint_id, name, verifier, sealed_secret, event_type, created_at)
SELECT $1, $2, $3, $4, $5, $6, $7
WHERE (SELECT count(*) FROM inbound_endpoints WHERE project_id = $1) < $8
RETURNING project_id, endpoint_id, name, verifier, sealed_secret, event_type, created_at;

-- name: lock_inbound_endpoint
-- An inbound endpoint of a project, locked until the transaction ends.
SELECT project_id, endpoint_id, name, verifier, sealed_secret, event_type, created_at
FROM inbound_endpoints
WHERE project_id = $1 AND endpoint_id = $2
FOR UPDATE;

-- name: update_inbound_endpoint
-- Replaces what an inbound endpoint consists of.
UPDATE inbound_endpoints
SET name = $3, verifier = $4, sealed_secret = $5, event_type = $6
WHERE project_id = $1 AND endpoint_id = $2
RETURNING project_id, endpoint_id, name, verifier, sealed_secret, event_type, created_at;

-- name: delete_inbound_endpoint
-- Deletes an inbound endpoint; gives its id if there was one.
DELETE FROM inbound_endpoints
WHERE project_id = $1 AND endpoint_id = $2
RETURNING endpoint_id;

-- name: list_inbound_endpoints
-- All inbound endpoints of a project, oldest first.
SELECT project_id, endpoint_id, name, verifier, sealed_secret, event_type, created_at
FROM inbound_endpoints
WHERE project_id = $1
ORDER BY created_at, endpoint_id;

-- name: read_inbound_endpoints
-- Inbound endpoints of a project by their ids.
SELECT project_id, endpoint_id, name, verifier, sealed_secret, event_type, created_at
FROM inbound_endpoints
WHERE project_id = $1 AND endpoint_id = ANY($2);

-- name: find_inbound_endpoint
-- An inbound endpoint by its id alone, which is all that its address names; it finds the project.
SELECT project_id, endpoint_id, name, verifier, sealed_secret, event_type, created_at
FROM inbound_endpoints
WHERE endpoint_id = $1;
