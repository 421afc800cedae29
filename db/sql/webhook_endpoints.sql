-- name: insert_webhook_endpoint
-- Makes an endpoint that is sent what the log holds from now on.
INSERT INTO webhook_endpoints (
    project_id, endpoint_id, url, description, events, enabled, signature_scheme, retry_schedule, allow_plain_http,
    after_seq, created_at
)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, h.head, $10
FROM heads AS h
WHERE h.project_id = $1 AND h.lane = 1;

-- name: update_webhook_endpoint
-- Replaces what may be changed. Switched on, it is sent what comes from now on; then, or elsewhere, it has not failed.
UPDATE webhook_endpoints AS e
SET
    url = $3,
    description = $4,
    events = $5,
    enabled = $6,
    signature_scheme = $7,
    retry_schedule = $8,
    allow_plain_http = $9,
    disabled_reason = CASE WHEN $6 THEN NULL ELSE e.disabled_reason END,
    failing_since = CASE WHEN ($6 AND NOT e.enabled) OR e.url <> $3 THEN NULL ELSE e.failing_since END,
    after_seq = CASE WHEN $6 AND NOT e.enabled THEN h.head ELSE e.after_seq END
FROM heads AS h
WHERE e.project_id = $1 AND e.endpoint_id = $2 AND h.project_id = $1 AND h.lane = 1;

-- name: lock_webhook_endpoint
-- One endpoint, locked until the transaction ends: gives its id.
SELECT endpoint_id
FROM webhook_endpoints
WHERE project_id = $1 AND endpoint_id = $2
FOR UPDATE;

-- name: delete_webhook_endpoint
-- Deletes an endpoint with its secrets; gives its id if there was one.
DELETE FROM webhook_endpoints
WHERE project_id = $1 AND endpoint_id = $2
RETURNING endpoint_id;

-- name: count_webhook_endpoints
-- How many a project has; locks the project's row, so that two do not count at once.
SELECT (SELECT count(*) FROM webhook_endpoints WHERE project_id = p.project_id) AS count
FROM projects AS p
WHERE p.project_id = $1
FOR NO KEY UPDATE;

-- name: read_webhook_endpoints
-- Endpoints of a project by their ids, each with its secrets, the oldest first.
SELECT
    e.project_id, e.endpoint_id, e.url, e.description, e.events, e.enabled, e.disabled_reason, e.signature_scheme,
    e.retry_schedule, e.allow_plain_http, e.created_at,
    (
        SELECT coalesce(json_agg(json_build_object(
            'secret_id', s.secret_id, 'hint', s.hint, 'created_at', s.created_at, 'expires_at', s.expires_at
        ) ORDER BY s.secret_id), '[]')
        FROM webhook_secrets AS s
        WHERE s.project_id = e.project_id AND s.endpoint_id = e.endpoint_id
    ) AS secrets
FROM webhook_endpoints AS e
WHERE e.project_id = $1 AND e.endpoint_id = ANY($2);

-- name: list_webhook_endpoints
-- A project's endpoints from the newest on, after one if it is given, each with its secrets, the oldest first.
SELECT
    e.project_id, e.endpoint_id, e.url, e.description, e.events, e.enabled, e.disabled_reason, e.signature_scheme,
    e.retry_schedule, e.allow_plain_http, e.created_at,
    (
        SELECT coalesce(json_agg(json_build_object(
            'secret_id', s.secret_id, 'hint', s.hint, 'created_at', s.created_at, 'expires_at', s.expires_at
        ) ORDER BY s.secret_id), '[]')
        FROM webhook_secrets AS s
        WHERE s.project_id = e.project_id AND s.endpoint_id = e.endpoint_id
    ) AS secrets
FROM webhook_endpoints AS e
WHERE e.project_id = $1 AND (CAST($2 AS uuid) IS NULL OR e.endpoint_id < $2)
ORDER BY e.endpoint_id DESC
LIMIT $3;

-- name: read_webhook_targets
-- What sending to endpoints takes, each with its sealed secrets that are active at $3, the oldest first.
SELECT
    e.endpoint_id, e.url, e.enabled, e.signature_scheme, e.allow_plain_http,
    ARRAY(
        SELECT s.sealed_secret
        FROM webhook_secrets AS s
        WHERE s.project_id = e.project_id AND s.endpoint_id = e.endpoint_id
            AND (s.expires_at IS NULL OR s.expires_at > $3)
        ORDER BY s.secret_id
    ) AS sealed_secrets
FROM webhook_endpoints AS e
WHERE e.project_id = $1 AND e.endpoint_id = ANY($2);

-- name: read_webhook_subscriptions
-- What a project's endpoints that are on want of the log, the oldest first.
SELECT endpoint_id, url, events, retry_schedule, after_seq
FROM webhook_endpoints
WHERE project_id = $1 AND enabled
ORDER BY endpoint_id;

-- name: insert_webhook_secret
-- Adds a secret to an endpoint.
INSERT INTO webhook_secrets (project_id, endpoint_id, secret_id, sealed_secret, hint, created_at)
VALUES ($1, $2, $3, $4, $5, $6);

-- name: expire_webhook_secrets
-- Ends the secrets of an endpoint at a time, those that have no end yet.
UPDATE webhook_secrets
SET expires_at = $3
WHERE project_id = $1 AND endpoint_id = $2 AND expires_at IS NULL;

-- name: delete_webhook_secret
-- Deletes a secret; gives its id if there was one.
DELETE FROM webhook_secrets
WHERE project_id = $1 AND endpoint_id = $2 AND secret_id = $3
RETURNING secret_id;

-- name: delete_expired_webhook_secrets
-- Deletes the secrets of an endpoint that have ended by $3.
DELETE FROM webhook_secrets
WHERE project_id = $1 AND endpoint_id = $2 AND expires_at <= $3;

-- name: note_webhook_outcomes
-- Notes which endpoints work ($2) and which fail ($3), in the order of their ids; gives those that fail and are on.
WITH touched AS (
    SELECT endpoint_id, enabled, failing_since, endpoint_id = ANY($2) AND NOT endpoint_id = ANY($3) AS is_working
    FROM webhook_endpoints
    WHERE project_id = $1 AND (
        endpoint_id = ANY($3) OR (endpoint_id = ANY($2) AND failing_since IS NOT NULL)
    )
    ORDER BY endpoint_id
    FOR NO KEY UPDATE
), noted AS (
    UPDATE webhook_endpoints AS e
    SET failing_since = CASE WHEN NOT touched.is_working THEN CAST($4 AS timestamptz) END
    FROM touched
    WHERE e.project_id = $1 AND e.endpoint_id = touched.endpoint_id
        AND (touched.is_working OR touched.failing_since IS NULL)
)
SELECT endpoint_id, coalesce(failing_since, CAST($4 AS timestamptz)) AS failing_since
FROM touched
WHERE enabled AND NOT is_working;

-- name: disable_webhook_endpoint
-- Switches an endpoint off that is on and still has the URL $3; gives its id if so.
UPDATE webhook_endpoints
SET enabled = false, disabled_reason = $4
WHERE project_id = $1 AND endpoint_id = $2 AND url = $3 AND enabled
RETURNING endpoint_id;
