-- name: stamp_interaction
-- Keeps when a push was first opened or clicked, and that it has arrived.
UPDATE deliveries
SET opened_at = CASE WHEN $4 THEN coalesce(opened_at, $3) ELSE opened_at END,
    clicked_at = CASE WHEN $5 THEN coalesce(clicked_at, $3) ELSE clicked_at END,
    status = CASE WHEN $6 THEN 'DELIVERED' ELSE status END,
    delivered_at = CASE WHEN $6 THEN $3 ELSE delivered_at END,
    finished_at = CASE WHEN $6 THEN coalesce(finished_at, $3) ELSE finished_at END
WHERE project_id = $1 AND delivery_id = $2;
