-- name: read_said
-- What a person has said about each purpose, without a lock.
SELECT purpose, state
FROM consents
WHERE project_id = $1 AND user_id = $2;

-- name: read_held
-- The suppressed ones of some addresses of a channel with the reason, without a lock.
WITH asked AS MATERIALIZED (
    SELECT p.project_id, given.address, 'sha256:' || encode(sha256(p.salt || convert_to(given.address, 'UTF8')), 'hex') AS hash
    FROM projects AS p
    CROSS JOIN unnest(CAST($3 AS text[])) AS given (address)
    WHERE p.project_id = $1
)
SELECT asked.address, s.reason
FROM asked
JOIN suppressions AS s ON s.project_id = asked.project_id AND s.channel = $2 AND s.address IN (asked.address, asked.hash);

-- name: read_as_stored
-- JSON texts as columns would give them back, in their order.
SELECT CAST(given.text AS jsonb) AS stored
FROM unnest(CAST($1 AS text[])) WITH ORDINALITY AS given (text, number)
ORDER BY given.number;
