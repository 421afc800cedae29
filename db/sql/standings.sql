-- name: read_said
-- What a person has said about each purpose, without a lock.
SELECT purpose, state
FROM consents
WHERE project_id = $1 AND user_id = $2;

-- name: read_held
-- The suppressed ones of some addresses of a channel with the reason, without a lock.
SELECT address, reason
FROM suppressions
WHERE project_id = $1 AND channel = $2 AND address = ANY($3);

-- name: read_as_stored
-- JSON texts as columns would give them back, in their order.
SELECT CAST(given.text AS jsonb) AS stored
FROM unnest(CAST($1 AS text[])) WITH ORDINALITY AS given (text, number)
ORDER BY given.number;
