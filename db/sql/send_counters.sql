-- name: insert_send_counter
-- Makes the counter of a window, unless it is there.
INSERT INTO send_counters (project_id, scope, window_start, count) VALUES ($1, $2, $3, 0)
ON CONFLICT (project_id, scope, window_start) DO NOTHING;

-- name: reserve_sends
-- Counts as many of the wanted sends as the limit leaves room for, and says how many.
UPDATE send_counters AS c
SET count = held.count + held.granted
FROM (
    SELECT s.count, greatest(0, least(CAST($4 AS integer), CAST($5 AS integer) - s.count)) AS granted
    FROM send_counters AS s
    WHERE s.project_id = $1 AND s.scope = $2 AND s.window_start = $3
    FOR NO KEY UPDATE
) AS held
WHERE c.project_id = $1 AND c.scope = $2 AND c.window_start = $3
RETURNING held.granted;

-- name: find_last_window
-- The last window that anything is counted in.
SELECT max(window_start) AS window_start
FROM send_counters
WHERE project_id = $1 AND scope = $2;
