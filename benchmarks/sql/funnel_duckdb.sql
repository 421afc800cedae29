-- The same question for DuckDB, over the 30 days before the end of the data.
WITH matched AS (
    SELECT COALESCE(l.user_id, e.user_id, e.anonymous_id) AS person, e.timestamp AS t, e.seq, e.event_type AS kind
    FROM events AS e
    LEFT JOIN identity_links AS l ON l.kind = CASE WHEN e.user_id IS NULL THEN 'ANONYMOUS_ID' ELSE 'USER_ID' END
        AND l.alias = COALESCE(e.user_id, e.anonymous_id)
    WHERE e.timestamp >= TIMESTAMPTZ '2026-05-02 00:00:00+00' AND e.timestamp < TIMESTAMPTZ '2026-06-01 00:00:00+00'
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
    quantile_cont(epoch(f1 - b1), [0.5, 0.9]) AS s1,
    quantile_cont(epoch(f2 - b2), [0.5, 0.9]) AS s2
FROM people WHERE f0 IS NOT NULL
