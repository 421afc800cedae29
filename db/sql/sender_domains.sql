-- name: insert_sender_domain
-- Makes a sender domain, unless the project has it.
INSERT INTO sender_domains (
    project_id, sender_domain_id, domain, status, dkim_selector, dkim_public_key, sealed_dkim_private_key, created_at
)
VALUES ($1, $2, $3, 'PENDING', $4, $5, $6, $7)
ON CONFLICT DO NOTHING
RETURNING project_id, sender_domain_id, domain, status, dkim_selector, dkim_public_key, sealed_dkim_private_key,
    verified_records, verified_at, probation_until, created_at;

-- name: read_sender_domains
-- Sender domains of a project by id.
SELECT project_id, sender_domain_id, domain, status, dkim_selector, dkim_public_key, sealed_dkim_private_key,
    verified_records, verified_at, probation_until, created_at
FROM sender_domains
WHERE project_id = $1 AND sender_domain_id = ANY($2);

-- name: lock_sender_domain
-- A sender domain of a project, locked until the transaction ends.
SELECT project_id, sender_domain_id, domain, status, dkim_selector, dkim_public_key, sealed_dkim_private_key,
    verified_records, verified_at, probation_until, created_at
FROM sender_domains
WHERE project_id = $1 AND sender_domain_id = $2
FOR NO KEY UPDATE;

-- name: find_sender_domains
-- Sender domains of a project by name.
SELECT project_id, sender_domain_id, domain, status, dkim_selector, dkim_public_key, sealed_dkim_private_key,
    verified_records, verified_at, probation_until, created_at
FROM sender_domains
WHERE project_id = $1 AND domain = ANY($2);

-- name: list_sender_domains
-- All sender domains of a project, by name.
SELECT project_id, sender_domain_id, domain, status, dkim_selector, dkim_public_key, sealed_dkim_private_key,
    verified_records, verified_at, probation_until, created_at
FROM sender_domains
WHERE project_id = $1
ORDER BY domain;

-- name: update_sender_domain
-- Keeps what a look into DNS found; when it was first verified, and until when it is on probation, stays.
UPDATE sender_domains
SET status = $3, verified_records = $4, verified_at = coalesce(verified_at, $5),
    probation_until = coalesce(probation_until, $6)
WHERE project_id = $1 AND sender_domain_id = $2
RETURNING project_id, sender_domain_id, domain, status, dkim_selector, dkim_public_key, sealed_dkim_private_key,
    verified_records, verified_at, probation_until, created_at;
