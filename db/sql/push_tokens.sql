-- name: register_push_token
-- Registers a device: makes its token, or brings back and updates the one that is there.
INSERT INTO push_tokens AS t (
    project_id, push_token_id, platform, environment, token, web_push_keys, user_id, timezone, locale, app_version,
    registered_at
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (project_id, token) DO UPDATE
SET platform = excluded.platform,
    environment = excluded.environment,
    web_push_keys = excluded.web_push_keys,
    -- Bound to a user once known; but whoever comes after the app signed off is somebody else.
    user_id = coalesce(excluded.user_id, CASE WHEN t.invalidated_reason = $12 THEN NULL ELSE t.user_id END),
    owner_generation = t.owner_generation + CAST(
        coalesce(excluded.user_id, CASE WHEN t.invalidated_reason = $12 THEN NULL ELSE t.user_id END)
        IS DISTINCT FROM t.user_id AS integer
    ),
    timezone = coalesce(excluded.timezone, t.timezone),
    locale = coalesce(excluded.locale, t.locale),
    app_version = coalesce(excluded.app_version, t.app_version),
    active = true,
    invalidated_reason = NULL,
    registered_at = excluded.registered_at
RETURNING
    project_id, push_token_id, platform, environment, token, web_push_keys, user_id, timezone, locale, app_version,
    active, invalidated_reason, owner_generation, registered_at, last_used_at;

-- name: give_up_excess_tokens
-- Gives up the active tokens of a user but for those that were registered last; says which.
UPDATE push_tokens AS t SET active = false, invalidated_reason = $4
WHERE t.project_id = $1 AND t.active AND t.push_token_id IN (
    SELECT push_token_id FROM push_tokens
    WHERE project_id = $1 AND user_id = $2 AND active
    ORDER BY registered_at DESC, push_token_id DESC
    OFFSET $3
)
RETURNING t.push_token_id;

-- name: unregister_push_token
-- Signs a device off.
UPDATE push_tokens SET active = false, invalidated_reason = $3
WHERE project_id = $1 AND token = $2
RETURNING
    project_id, push_token_id, platform, environment, token, web_push_keys, user_id, timezone, locale, app_version,
    active, invalidated_reason, owner_generation, registered_at, last_used_at;

-- name: read_push_tokens
-- Push tokens of a project by their ids.
SELECT
    project_id, push_token_id, platform, environment, token, web_push_keys, user_id, timezone, locale, app_version,
    active, invalidated_reason, owner_generation, registered_at, last_used_at
FROM push_tokens
WHERE project_id = $1 AND push_token_id = ANY($2);

-- name: share_push_tokens
-- The same, locked, in the order of their ids.
SELECT
    project_id, push_token_id, platform, environment, token, web_push_keys, user_id, timezone, locale, app_version,
    active, invalidated_reason, owner_generation, registered_at, last_used_at
FROM push_tokens
WHERE project_id = $1 AND push_token_id = ANY($2)
ORDER BY push_token_id
FOR SHARE;

-- name: share_active_tokens
-- The active push tokens of some users, locked, in the order of their ids.
SELECT
    project_id, push_token_id, platform, environment, token, web_push_keys, user_id, timezone, locale, app_version,
    active, invalidated_reason, owner_generation, registered_at, last_used_at
FROM push_tokens
WHERE project_id = $1 AND user_id = ANY($2) AND active
ORDER BY push_token_id
FOR SHARE;

-- name: share_token_of_device
-- The push token that a device registered, locked.
SELECT
    project_id, push_token_id, platform, environment, token, web_push_keys, user_id, timezone, locale, app_version,
    active, invalidated_reason, owner_generation, registered_at, last_used_at
FROM push_tokens
WHERE project_id = $1 AND token = $2
FOR SHARE;

-- name: find_owner_of_device
-- Whose device it is that registered a token.
SELECT user_id
FROM push_tokens
WHERE project_id = $1 AND token = $2;

-- name: is_token_of_owner
-- Whether a push token is active, and its owner's who has this number.
SELECT EXISTS (
    SELECT FROM push_tokens
    WHERE project_id = $1 AND push_token_id = $2 AND owner_generation = $3 AND active
) AS is_token_of_owner;

-- name: read_tokens_by_user
-- The newest push tokens of some users, at most a number of each.
SELECT
    t.project_id, t.push_token_id, t.platform, t.environment, t.token, t.web_push_keys, t.user_id, t.timezone,
    t.locale, t.app_version, t.active, t.invalidated_reason, t.owner_generation, t.registered_at, t.last_used_at
FROM unnest(CAST($2 AS text[])) AS wanted (user_id)
CROSS JOIN LATERAL (
    SELECT * FROM push_tokens AS p
    WHERE p.project_id = $1 AND p.user_id = wanted.user_id
    ORDER BY p.push_token_id DESC
    LIMIT $3
) AS t;

-- name: settle_push_tokens
-- Keeps what sends showed of tokens; says which of them were active and are no longer.
WITH outcome AS (
    SELECT push_token_id, is_used, environment, reason, dead_since
    FROM unnest(
        CAST($2 AS uuid[]), CAST($3 AS boolean[]), CAST($4 AS text[]), CAST($5 AS text[]), CAST($6 AS timestamptz[])
    ) AS o (push_token_id, is_used, environment, reason, dead_since)
),
locked AS (
    SELECT t.push_token_id, t.active, o.is_used, o.environment,
        -- Not the reason of one that was registered again since it died.
        CASE WHEN o.dead_since IS NULL OR o.dead_since >= t.registered_at THEN o.reason END AS reason
    FROM push_tokens AS t
    JOIN outcome AS o USING (push_token_id)
    WHERE t.project_id = $1
    ORDER BY t.push_token_id
    FOR NO KEY UPDATE OF t
)
UPDATE push_tokens AS t
SET last_used_at = CASE WHEN locked.is_used THEN $7 ELSE t.last_used_at END,
    environment = coalesce(locked.environment, t.environment),
    active = t.active AND locked.reason IS NULL,
    invalidated_reason = CASE WHEN t.active THEN locked.reason ELSE t.invalidated_reason END
FROM locked
WHERE t.project_id = $1 AND t.push_token_id = locked.push_token_id
RETURNING t.push_token_id, locked.active AND NOT t.active AS is_invalidated;
