-- Of the people who viewed a product in one of twelve weeks, how many placed an order in each of the weeks after it.
WITH weeks AS MATERIALIZED (
    SELECT
        COALESCE(l.user_id, e.user_id, e.anonymous_id) AS person,
        date_trunc('week', e.timestamp, 'UTC') AS week,
        bool_or(e.event_type = 'product.viewed') AS began,
        bool_or(e.event_type = 'order.placed') AS came
    FROM events AS e
    LEFT JOIN identity_links AS l
        ON l.project_id = $1 AND l.kind = 'ANONYMOUS_ID' AND l.alias = e.anonymous_id AND e.user_id IS NULL
    WHERE e.project_id = $1 AND e.event_type IN ('product.viewed', 'order.placed')
        AND e.timestamp >= $2 AND e.timestamp < $3
    GROUP BY 1, 2
)
SELECT a.week AS cohort, (extract(epoch FROM b.week - a.week) / 604800)::int AS later, count(*) AS people
FROM weeks AS a
JOIN weeks AS b ON b.person = a.person AND b.week >= a.week AND (b.came OR b.week = a.week)
WHERE a.began
GROUP BY 1, 2;
