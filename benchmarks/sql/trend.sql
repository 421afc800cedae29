-- Views a day over 90 days by source: the five greatest, and all others together. Days are those of UTC.
WITH cells AS MATERIALIZED (
    SELECT date_trunc('day', timestamp, 'UTC') AS day, properties ->> 'source' AS source, count(*) AS events
    FROM events
    WHERE project_id = $1 AND event_type = 'page.viewed' AND timestamp >= $2 AND timestamp < $3
    GROUP BY 1, 2
), greatest_ones AS (
    SELECT source, row_number() OVER (ORDER BY sum(events) DESC, source) AS rank
    FROM cells
    GROUP BY source
)
SELECT day, g.source, sum(c.events)::bigint AS events
FROM cells AS c
LEFT JOIN greatest_ones AS g ON g.source = c.source AND g.rank <= 5
GROUP BY 1, 2;
