-- name: lock_consent_chain
-- Where a project's chain ends, locked against whoever adds to it.
SELECT seq, hash
FROM consent_chains
WHERE project_id = $1
FOR NO KEY UPDATE;

-- name: begin_consent_chain
-- Begins a project's chain with its first link, unless somebody else has; waits for them.
INSERT INTO consent_chains (project_id, seq, hash)
VALUES ($1, 1, $2)
ON CONFLICT DO NOTHING
RETURNING seq;

-- name: move_consent_chain
-- Moves the end of a project's chain, which is locked.
UPDATE consent_chains SET seq = $2, hash = $3
WHERE project_id = $1;

-- name: insert_consent_change
-- Adds a change to the log.
INSERT INTO consent_changes (
    project_id, seq, consent_change_id, user_id, source, actor, salt, purpose, from_state, to_state, at, commitment, hash
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13);

-- name: read_consent_chain
-- Where a project's chain ends.
SELECT seq, hash
FROM consent_chains
WHERE project_id = $1;

-- name: scan_consent_changes
-- A project's changes after a seq, in their order.
SELECT
    project_id, seq, consent_change_id, user_id, source, actor, salt, purpose, from_state, to_state, at, commitment, hash
FROM consent_changes
WHERE project_id = $1 AND seq > $2
ORDER BY seq
LIMIT $3;

-- name: read_consent_changes
-- Changes of a project by their ids.
SELECT
    project_id, seq, consent_change_id, user_id, source, actor, salt, purpose, from_state, to_state, at, commitment, hash
FROM consent_changes
WHERE project_id = $1 AND consent_change_id = ANY($2);

-- name: find_projects_with_consent
-- Projects in whose chain, or log, there is something; or one of them.
SELECT p.project_id
FROM projects AS p
WHERE (p.project_id = $1 OR $1 IS NULL)
    AND (
        EXISTS (SELECT FROM consent_chains AS c WHERE c.project_id = p.project_id)
        OR EXISTS (SELECT FROM consent_changes AS c WHERE c.project_id = p.project_id)
    )
ORDER BY p.project_id;
