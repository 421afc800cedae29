-- name: share_consents
-- What some people have said about some purposes, which stays as it is until the transaction ends.
SELECT project_id, user_id, purpose, state, source, updated_at
FROM consents
WHERE project_id = $1 AND user_id = ANY($2) AND purpose = ANY($3)
ORDER BY user_id, purpose
FOR SHARE;

-- name: read_consents_of_people
-- What some people have said about all purposes.
SELECT project_id, user_id, purpose, state, source, updated_at
FROM consents
WHERE project_id = $1 AND user_id = ANY($2)
ORDER BY user_id, purpose;

-- name: write_consent
-- Sets what a person says about a purpose.
INSERT INTO consents (project_id, user_id, purpose, state, source, updated_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (project_id, user_id, purpose) DO UPDATE
SET state = excluded.state, source = excluded.source, updated_at = excluded.updated_at;
