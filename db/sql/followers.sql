-- name: ensure_follower
-- Lets a follower begin at a lane's head, unless it follows the project already.
INSERT INTO log_followers (project_id, follower, lane, position)
SELECT project_id, $2, lane, head
FROM heads
WHERE project_id = $1 AND lane = $3
ON CONFLICT DO NOTHING;

-- name: lease_follower
-- Takes or renews a follower's lease, and gives its position; no row where another worker holds it.
-- Its commit does not wait for the disk: a lease that is lost with the server is taken again, and moves no position.
UPDATE log_followers
SET lease_token = $4, lease_until = clock_timestamp() + $5
WHERE project_id = $1 AND follower = $2 AND lane = $3
    AND (lease_token IS NULL OR lease_token = $4 OR lease_until < clock_timestamp())
    AND set_config('synchronous_commit', 'off', true) = 'off'
RETURNING position;

-- name: advance_follower
-- Moves a follower from one position to another, for who holds its lease.
UPDATE log_followers
SET position = $6
WHERE project_id = $1 AND follower = $2 AND lane = $3 AND lease_token = $4 AND position = $5
RETURNING position;

-- name: spare_disk
-- Has the commit of this transaction not wait for the disk.
SELECT set_config('synchronous_commit', 'off', true) AS synchronous_commit;

-- name: release_follower
-- Gives a follower's lease back; its commit does not wait for the disk either.
UPDATE log_followers
SET lease_token = NULL, lease_until = NULL
WHERE project_id = $1 AND follower = $2 AND lane = $3 AND lease_token = $4
    AND set_config('synchronous_commit', 'off', true) = 'off';

-- name: read_followed_projects
-- The projects that a follower follows, with whether it is behind.
SELECT f.project_id, h.head > f.position AS is_behind
FROM log_followers AS f
JOIN heads AS h ON h.project_id = f.project_id AND h.lane = f.lane
WHERE f.follower = $1 AND f.lane = $2
ORDER BY f.project_id;

-- name: read_slowest_position
-- How far the slowest follower of a project's lane has come; NULL without any.
SELECT min(position) AS position
FROM log_followers
WHERE project_id = $1 AND lane = $2;
