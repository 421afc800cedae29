-- As trend.sql. The source is a column of its own here.
WITH cells AS (
    SELECT date_trunc('day', timestamp) AS day, source, count(*) AS events
    FROM events
    WHERE event_type = 'page.viewed' AND timestamp >= '2026-03-03' AND timestamp < '2026-06-01'
    GROUP BY 1, 2
), greatest_ones AS (
    SELECT source, row_number() OVER (ORDER BY sum(events) DESC, source) AS rank
    FROM cells
    GROUP BY source
)
SELECT strftime(day, '%Y-%m-%d') AS day, g.source, sum(c.events)::bigint AS events
FROM cells AS c
LEFT JOIN greatest_ones AS g ON g.source = c.source AND g.rank <= 5
GROUP BY 1, 2;
