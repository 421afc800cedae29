-- name: count_sends
-- How many messages some people were sent since two instants, and which of some messages are among them.
SELECT
    r.user_id,
    count(DISTINCT r.message_id) FILTER (WHERE r.at > $3) AS in_hour,
    count(DISTINCT r.message_id) AS in_day,
    coalesce(array_agg(DISTINCT r.message_id) FILTER (WHERE r.message_id = ANY($5)), '{}') AS message_ids
FROM push_reservations AS r
JOIN deliveries AS d USING (project_id, delivery_id)
WHERE r.project_id = $1 AND r.user_id = ANY($2) AND r.at > $4
    AND d.status NOT IN ('SCHEDULED', 'SUPPRESSED', 'CANCELLED')
GROUP BY r.user_id;

-- name: reserve_sends
-- Counts deliveries from now on.
INSERT INTO push_reservations (project_id, delivery_id, user_id, message_id, at)
SELECT $1, delivery_id, user_id, message_id, $5
FROM unnest(CAST($2 AS uuid[]), CAST($3 AS text[]), CAST($4 AS uuid[])) AS r (delivery_id, user_id, message_id)
ON CONFLICT (project_id, delivery_id) DO UPDATE SET at = excluded.at;
