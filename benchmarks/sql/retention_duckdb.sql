-- As retention.sql.
WITH weeks AS MATERIALIZED (
    SELECT
        COALESCE(l.user_id, e.user_id, e.anonymous_id) AS person,
        date_trunc('week', e.timestamp) AS week,
        bool_or(e.event_type = 'product.viewed') AS began,
        bool_or(e.event_type = 'order.placed') AS came
    FROM events AS e
    LEFT JOIN identity_links AS l
        ON l.kind = 'ANONYMOUS_ID' AND l.alias = e.anonymous_id AND e.user_id IS NULL
    WHERE e.event_type IN ('product.viewed', 'order.placed')
        AND e.timestamp >= '2026-03-09' AND e.timestamp < '2026-06-01'
    GROUP BY 1, 2
)
SELECT strftime(a.week, '%Y-%m-%d') AS cohort, date_diff('week', a.week, b.week) AS later, count(*) AS people
FROM weeks AS a
JOIN weeks AS b ON b.person = a.person AND b.week >= a.week AND (b.came OR b.week = a.week)
WHERE a.began
GROUP BY 1, 2;
