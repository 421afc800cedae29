-- name: insert_user
-- Makes a user: anonymous without an email address.
INSERT INTO users (project_id, user_id, email, password_hash, created_at, signed_up_at)
SELECT $1, $2, $3, $4, given.at, CASE WHEN CAST($3 AS text) IS NOT NULL THEN given.at END
FROM (SELECT CAST($5 AS timestamptz) AS at) AS given;

-- name: find_user_by_email
-- The user with an email address.
SELECT user_id, email, password_hash, sealed_totp_secret, totp_confirmed_at, totp_step, recovery_code_hashes
FROM users
WHERE project_id = $1 AND email = $2;

-- name: lock_users
-- The same of several, locked, in the order of their ids.
SELECT user_id, email, password_hash, sealed_totp_secret, totp_confirmed_at, totp_step, recovery_code_hashes
FROM users
WHERE project_id = $1 AND user_id = ANY($2)
ORDER BY user_id
FOR UPDATE;

-- name: upgrade_user
-- Gives an anonymous user an email address and a password.
UPDATE users SET email = $3, password_hash = $4, signed_up_at = $5
WHERE project_id = $1 AND user_id = $2 AND email IS NULL;

-- name: replace_password_hash
-- Keeps the same password as another hash, unless it was changed.
UPDATE users SET password_hash = $4
WHERE project_id = $1 AND user_id = $2 AND password_hash = $3;

-- name: begin_totp
-- Keeps a second factor that is to be confirmed; one that is in use stays.
UPDATE users SET sealed_totp_secret = $3, totp_step = NULL, recovery_code_hashes = '{}'
WHERE project_id = $1 AND user_id = $2 AND totp_confirmed_at IS NULL;

-- name: confirm_totp
-- Asks for the second factor from now on.
UPDATE users SET totp_confirmed_at = $3, totp_step = $4, recovery_code_hashes = $5
WHERE project_id = $1 AND user_id = $2 AND totp_confirmed_at IS NULL AND sealed_totp_secret IS NOT NULL;

-- name: end_totp
-- Forgets a second factor and its recovery codes.
UPDATE users SET sealed_totp_secret = NULL, totp_confirmed_at = NULL, totp_step = NULL, recovery_code_hashes = '{}'
WHERE project_id = $1 AND user_id = $2;

-- name: spend_totp_step
-- Takes the codes of a time step, and of all before it, as used.
UPDATE users SET totp_step = $3
WHERE project_id = $1 AND user_id = $2 AND (totp_step IS NULL OR totp_step < $3)
RETURNING user_id;

-- name: spend_recovery_code
-- Takes a recovery code as used.
UPDATE users SET recovery_code_hashes = array_remove(recovery_code_hashes, $3)
WHERE project_id = $1 AND user_id = $2 AND $3 = ANY (recovery_code_hashes)
RETURNING user_id;

-- name: delete_user
-- Deletes a user; sessions stay, and end.
DELETE FROM users
WHERE project_id = $1 AND user_id = $2;

-- name: insert_profile
-- Makes the profile of a new user, before the first event that names them.
INSERT INTO profiles (project_id, profile_id, user_id, anonymous, created_at)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING;

-- name: make_profile_known
-- Somebody has signed up.
UPDATE profiles SET anonymous = false
WHERE project_id = $1 AND user_id = $2;

-- name: fill_in_traits
-- Gives a person what another one's profile says and nobody ever said of them, as far as it fits.
UPDATE profiles AS p
SET traits = merged.traits, trait_stamps = merged.stamps
FROM (
    SELECT heir.user_id,
        coalesce(given.traits, '{}') || heir.traits AS traits,
        coalesce(given.stamps, '{}') || heir.trait_stamps AS stamps
    FROM profiles AS heir
    CROSS JOIN LATERAL (
        SELECT jsonb_object_agg(trait.key, trait.value) AS traits,
            jsonb_object_agg(trait.key, retired.trait_stamps -> trait.key)
                FILTER (WHERE retired.trait_stamps ? trait.key) AS stamps
        FROM profiles AS retired
        CROSS JOIN LATERAL jsonb_each(retired.traits) AS trait
        WHERE retired.project_id = $1 AND retired.user_id = $2
            AND NOT heir.traits ? trait.key AND NOT heir.trait_stamps ? trait.key
    ) AS given
    WHERE heir.project_id = $1 AND heir.user_id = $3
) AS merged
WHERE p.project_id = $1 AND p.user_id = merged.user_id
    AND pg_column_size(merged.traits) + pg_column_size(merged.stamps) <= 262144;

-- name: delete_profile
-- Deletes a person's profile; says which it was.
DELETE FROM profiles
WHERE project_id = $1 AND user_id = $2
RETURNING profile_id;
