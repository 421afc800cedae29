-- name: list_event_types
-- Types that a project has seen, by name and module, from just after a position.
SELECT project_id, event_type, module, count, last_seen_at
FROM event_types
WHERE project_id = $1
    AND ($2::text IS NULL OR (event_type, module) > ($2, $3::text))
    AND ($4::text IS NULL OR module = $4)
    AND ($5::text IS NULL OR strpos(lower(event_type), lower($5)) > 0)
ORDER BY event_type, module
LIMIT $6;

-- name: read_event_types
-- What a project has seen of the given types, in every module.
SELECT project_id, event_type, module, count, last_seen_at
FROM event_types
WHERE project_id = $1 AND event_type = ANY($2)
ORDER BY event_type, module;
