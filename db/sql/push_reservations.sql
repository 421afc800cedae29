-- name: count_sends
-- How many sends some people had since two instants, and which sends of some messages are among them.
-- What an earlier batch reserved counts: where nothing came of it, it was released before the next.
SELECT
    r.user_id,
    count(DISTINCT (r.message_id, r.batch_id)) FILTER (WHERE r.at > $3) AS in_hour,
    count(DISTINCT (r.message_id, r.batch_id)) AS in_day,
    coalesce(
        array_agg(r.message_id ORDER BY r.delivery_id, r.batch_id) FILTER (WHERE r.message_id = ANY($5)), '{}'
    ) AS message_ids,
    coalesce(
        array_agg(r.batch_id ORDER BY r.delivery_id, r.batch_id) FILTER (WHERE r.message_id = ANY($5)), '{}'
    ) AS batch_ids
FROM push_reservations AS r
JOIN deliveries AS d USING (project_id, delivery_id)
WHERE r.project_id = $1 AND r.user_id = ANY($2) AND r.at > $4
    AND (d.status <> ALL($6) OR d.batch_id IS DISTINCT FROM r.batch_id)
GROUP BY r.user_id;

-- name: reserve_sends
-- Counts deliveries from now on.
INSERT INTO push_reservations (project_id, delivery_id, batch_id, user_id, message_id, at)
SELECT $1, delivery_id, batch_id, user_id, message_id, $6
FROM unnest(CAST($2 AS uuid[]), CAST($3 AS uuid[]), CAST($4 AS text[]), CAST($5 AS uuid[]))
    AS r (delivery_id, batch_id, user_id, message_id)
ON CONFLICT (project_id, delivery_id, batch_id) DO UPDATE SET at = excluded.at;

-- name: release_unsent
-- Forgets what was reserved for the present batch of those deliveries that nothing came of.
DELETE FROM push_reservations AS r
USING deliveries AS d
WHERE r.project_id = $1 AND r.delivery_id = ANY($2)
    AND d.project_id = $1 AND d.delivery_id = r.delivery_id AND d.batch_id IS NOT DISTINCT FROM r.batch_id
    AND d.status = ANY($3);
