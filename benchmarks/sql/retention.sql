-- Of the people who viewed a product in one of twelve weeks, how many placed an order in each of the weeks after it. Of a
-- person nothing is kept but in which weeks they did the one and the other, as bits.
WITH visits AS MATERIALIZED (
    SELECT
        COALESCE(l.user_id, e.user_id, e.anonymous_id) AS person,
        bit_or(CASE WHEN e.event_type = 'product.viewed'
            THEN 1 << trunc(extract(epoch FROM e.timestamp - $2) / 604800)::int ELSE 0 END) AS began,
        bit_or(CASE WHEN e.event_type = 'order.placed'
            THEN 1 << trunc(extract(epoch FROM e.timestamp - $2) / 604800)::int ELSE 0 END) AS came
    FROM events AS e
    LEFT JOIN identity_links AS l
        ON l.project_id = $1 AND l.kind = 'ANONYMOUS_ID' AND l.alias = e.anonymous_id AND e.user_id IS NULL
    WHERE e.project_id = $1 AND e.event_type IN ('product.viewed', 'order.placed')
        AND e.timestamp >= $2 AND e.timestamp < $3
    GROUP BY 1
),
alike AS (
    SELECT began, came, count(*) AS people FROM visits WHERE began <> 0 GROUP BY 1, 2
)
SELECT $2 + a.week * interval '7 days' AS cohort, b.week - a.week AS later, sum(people)::bigint AS people
FROM generate_series(0, 11) AS a (week)
JOIN alike ON began & (1 << a.week) <> 0
CROSS JOIN generate_series(a.week, 11) AS b (week)
WHERE b.week = a.week OR came & (1 << b.week) <> 0
GROUP BY 1, 2;
