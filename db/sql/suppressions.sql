-- name: share_suppressions
-- The suppressed ones of some addresses of a channel, locked FOR SHARE. Of people who were erased a hash is kept.
WITH asked AS MATERIALIZED (
    SELECT p.project_id, given.address, 'sha256:' || encode(sha256(p.salt || convert_to(given.address, 'UTF8')), 'hex') AS hash
    FROM projects AS p
    CROSS JOIN unnest(CAST($3 AS text[])) AS given (address)
    WHERE p.project_id = $1
)
SELECT s.project_id, s.channel, asked.address, s.reason, s.delivery_id, s.created_at
FROM asked
JOIN suppressions AS s ON s.project_id = asked.project_id AND s.channel = $2 AND s.address IN (asked.address, asked.hash)
ORDER BY s.address
FOR SHARE OF s;

-- name: insert_suppressions
-- Suppresses addresses; whoever is suppressed already stays with the first reason, and whoever was erased with the hash.
INSERT INTO suppressions (project_id, channel, address, reason, delivery_id, created_at)
SELECT $1, $2, given.address, given.reason, given.delivery_id, $6
FROM unnest(CAST($3 AS text[]), CAST($4 AS text[]), CAST($5 AS uuid[])) AS given (address, reason, delivery_id)
WHERE NOT EXISTS (
    SELECT FROM suppressions AS s
    WHERE s.project_id = $1 AND s.channel = $2 AND s.address = (
        SELECT 'sha256:' || encode(sha256(p.salt || convert_to(given.address, 'UTF8')), 'hex')
        FROM projects AS p
        WHERE p.project_id = $1
    )
)
ORDER BY given.address
ON CONFLICT (project_id, channel, address) DO NOTHING
RETURNING address;
