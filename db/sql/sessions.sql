-- name: insert_session
-- Makes a session with its first refresh token.
WITH made AS (
    INSERT INTO sessions (
        project_id, session_id, user_id, anonymous, device_id, created_at, last_used_at, expires_at
    )
    VALUES ($1, $2, $3, $4, $5, $6, $6, $7)
)
INSERT INTO refresh_tokens (project_id, token_hash, session_id, created_at)
VALUES ($1, $8, $2, $6);

-- name: find_session
-- The session that a refresh token is of, and whether that was used.
SELECT s.session_id, s.user_id, s.anonymous, s.device_id, s.expires_at, s.ended_at, s.ended_reason, s.taken_over_by,
    s.retired_profile_id, t.used_at
FROM refresh_tokens AS t
JOIN sessions AS s USING (project_id, session_id)
WHERE t.project_id = $1 AND t.token_hash = $2;

-- name: lock_sessions
-- Locks the sessions of a user, in the order of their ids.
SELECT session_id, ended_at IS NULL AS is_open
FROM sessions
WHERE project_id = $1 AND user_id = $2
ORDER BY session_id
FOR UPDATE;

-- name: lock_session
-- Locks one session.
SELECT session_id
FROM sessions
WHERE project_id = $1 AND session_id = $2
FOR UPDATE;

-- name: rotate_refresh_token
-- Takes a refresh token as used, makes the next one, and lets the session last longer.
WITH used AS (
    UPDATE refresh_tokens SET used_at = $5
    WHERE project_id = $1 AND token_hash = $3
),
made AS (
    INSERT INTO refresh_tokens (project_id, token_hash, session_id, created_at)
    VALUES ($1, $4, $2, $5)
)
UPDATE sessions SET last_used_at = $5, expires_at = $6
WHERE project_id = $1 AND session_id = $2;

-- name: end_sessions
-- Ends sessions that have not ended; says which.
UPDATE sessions SET ended_at = $3, ended_reason = $4, taken_over_by = $5, retired_profile_id = $6
WHERE project_id = $1 AND session_id = ANY($2) AND ended_at IS NULL
RETURNING session_id;

-- name: delete_old_sessions
-- Deletes sessions that ended or expired before an instant, the oldest first, with their refresh tokens.
DELETE FROM sessions AS s
USING (
    SELECT project_id, session_id FROM sessions
    WHERE expires_at < $1
    ORDER BY expires_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
) AS old
WHERE s.project_id = old.project_id AND s.session_id = old.session_id;

-- name: delete_spent_tokens
-- Deletes refresh tokens that were used before an instant, as far as they are looked at: the oldest.
DELETE FROM refresh_tokens AS t
USING (
    SELECT project_id, token_hash FROM refresh_tokens
    WHERE used_at < $1
    ORDER BY used_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
) AS old
WHERE t.project_id = old.project_id AND t.token_hash = old.token_hash;
