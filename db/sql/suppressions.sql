-- name: share_suppressions
-- The suppressed ones of some addresses of a channel, locked FOR SHARE.
SELECT project_id, channel, address, reason, delivery_id, created_at
FROM suppressions
WHERE project_id = $1 AND channel = $2 AND address = ANY($3)
ORDER BY address
FOR SHARE;

-- name: insert_suppressions
-- Suppresses addresses; whoever bounced and unsubscribes besides stays with the first reason.
INSERT INTO suppressions (project_id, channel, address, reason, delivery_id, created_at)
SELECT $1, $2, given.address, given.reason, given.delivery_id, $6
FROM unnest(CAST($3 AS text[]), CAST($4 AS text[]), CAST($5 AS uuid[])) AS given (address, reason, delivery_id)
ORDER BY given.address
ON CONFLICT (project_id, channel, address) DO NOTHING
RETURNING address;
