-- name: read_reasons
-- The most frequent reasons why deliveries made since an instant failed or were held back, some per channel.
SELECT ranked.channel, ranked.reason, ranked.hint, ranked.deliveries, ranked.last_seen_at
FROM (
    SELECT d.channel, r.reason, max(d.error_hint) AS hint, count(*) AS deliveries,
        max(coalesce(d.finished_at, d.created_at)) AS last_seen_at,
        row_number() OVER (PARTITION BY d.channel ORDER BY count(*) DESC, r.reason) AS place
    FROM deliveries AS d
    CROSS JOIN LATERAL (SELECT coalesce(d.suppressed_reason, d.error_code, d.status) AS reason) AS r
    WHERE d.project_id = $1 AND d.created_at >= $2
        AND d.status IN ('FAILED', 'DEAD_LETTERED', 'UNCERTAIN', 'SUPPRESSED')
    GROUP BY d.channel, r.reason
) AS ranked
WHERE ranked.place <= $3
ORDER BY ranked.channel, ranked.place;

-- name: read_recent_failures
-- The ids of a project's deliveries that failed last, latest first, of those made last among all that failed.
SELECT youngest.delivery_id
FROM (
    SELECT d.delivery_id, d.finished_at
    FROM deliveries AS d
    WHERE d.project_id = $1 AND d.status IN ('FAILED', 'DEAD_LETTERED', 'UNCERTAIN')
    ORDER BY d.delivery_id DESC
    LIMIT $3
) AS youngest
ORDER BY youngest.finished_at DESC NULLS LAST, youngest.delivery_id DESC
LIMIT $2;
