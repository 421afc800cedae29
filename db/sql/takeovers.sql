-- name: move_push_tokens
-- Gives the devices of a user to another one, who is their next owner.
UPDATE push_tokens AS t SET user_id = $3, owner_generation = t.owner_generation + 1
FROM (
    SELECT push_token_id FROM push_tokens
    WHERE project_id = $1 AND user_id = $2
    ORDER BY push_token_id
    FOR UPDATE
) AS locked
WHERE t.project_id = $1 AND t.push_token_id = locked.push_token_id
RETURNING t.push_token_id;

-- name: is_push_in_flight
-- Whether a push to a device of a user is being sent right now.
SELECT EXISTS (
    SELECT FROM deliveries
    WHERE project_id = $1 AND user_id = $2 AND status = 'SENDING' AND push_token_id = ANY($3)
        AND lease_until > clock_timestamp()
) AS is_in_flight;

-- name: move_runs
-- Lets the runs of a user that go on be another one's.
UPDATE workflow_runs AS r SET user_id = $3
FROM (
    SELECT run_id FROM workflow_runs
    WHERE project_id = $1 AND user_id = $2 AND status IN ('QUEUED', 'RUNNING', 'PAUSED')
    ORDER BY run_id
    FOR UPDATE
) AS locked
WHERE r.project_id = $1 AND r.run_id = locked.run_id;

-- name: take_consents
-- Takes away what a user has said about purposes; says what it was.
DELETE FROM consents
WHERE project_id = $1 AND user_id = $2
RETURNING purpose, state;

-- name: leave_audiences
-- Takes a user out of all audiences; says which.
DELETE FROM audience_members
WHERE project_id = $1 AND user_id = $2
RETURNING audience_id;

-- name: find_sent_before
-- Devices that got a send, or may have, while they were those of users whom some others took over.
SELECT DISTINCT d.batch_id, d.push_token_id
FROM identity_links AS l
JOIN deliveries AS d ON d.project_id = l.project_id AND d.user_id = l.alias
WHERE l.project_id = $1 AND l.kind = 'USER_ID' AND l.user_id = ANY($2) AND d.batch_id = ANY($3)
    AND d.push_token_id = ANY($4) AND d.status IN ('SENDING', 'SENT', 'DELIVERED', 'UNCERTAIN');
