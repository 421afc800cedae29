-- A three-step ordered funnel within 7 days, as one would write it by hand for exactly this question: the latest start of
-- a way, carried along by window functions over one sort. $1 project, $2 and $3 the period.
WITH matched AS (
    SELECT COALESCE(l.user_id, e.user_id, e.anonymous_id) AS person, e.timestamp AS t, e.seq, e.event_type AS kind
    FROM events AS e
    LEFT JOIN identity_links AS l ON l.project_id = $1
        AND l.kind = CASE WHEN e.user_id IS NULL THEN 'ANONYMOUS_ID' ELSE 'USER_ID' END
        AND l.alias = COALESCE(e.user_id, e.anonymous_id)
    WHERE e.project_id = $1 AND e.timestamp >= $2 AND e.timestamp < $3
        AND e.event_type IN ('product.viewed', 'cart.updated', 'order.placed')
),
carts AS (
    SELECT *, max(t) FILTER (WHERE kind = 'product.viewed') OVER w AS began
    FROM matched WINDOW w AS (PARTITION BY person ORDER BY t, seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
orders AS (
    SELECT *, max(began) FILTER (WHERE kind = 'cart.updated' AND t <= began + interval '7 days') OVER w AS entered,
        max(t) FILTER (WHERE kind = 'cart.updated' AND t <= began + interval '7 days') OVER w AS carted
    FROM carts WINDOW w AS (PARTITION BY person ORDER BY t, seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
people AS (
    SELECT person,
        min(t) FILTER (WHERE kind = 'product.viewed') AS f0,
        min(t) FILTER (WHERE kind = 'cart.updated' AND t <= began + interval '7 days') AS f1,
        min(began) FILTER (WHERE kind = 'cart.updated' AND t <= began + interval '7 days') AS b1,
        min(t) FILTER (WHERE kind = 'order.placed' AND t <= entered + interval '7 days') AS f2,
        min(carted) FILTER (WHERE kind = 'order.placed' AND t <= entered + interval '7 days') AS b2
    FROM orders GROUP BY person
)
SELECT count(f0), count(f1) AS c1, count(f2) AS c2,
    percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY extract(epoch FROM f1 - b1)::float8) AS s1,
    percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY extract(epoch FROM f2 - b2)::float8) AS s2
FROM people WHERE f0 IS NOT NULL
