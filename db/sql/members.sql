-- name: insert_member
-- Makes a member; no row where the organization has one with this address.
INSERT INTO members (organization_id, member_id, email, role, created_at)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (organization_id, email) WHERE removed_at IS NULL DO NOTHING
RETURNING organization_id, member_id, email, role, created_at;

-- name: list_members
-- The members of an organization, oldest first.
SELECT organization_id, member_id, email, role, created_at
FROM members
WHERE organization_id = $1 AND removed_at IS NULL
ORDER BY created_at, member_id
LIMIT $2;

-- name: hold_organization
-- Holds an organization's row: nobody else adds to its members or removes one before the transaction ends.
SELECT organization_id FROM organizations WHERE organization_id = $1 FOR NO KEY UPDATE;

-- name: remove_member
-- Ends a member and every token that is left.
WITH revoked AS (
    UPDATE member_tokens SET revoked_at = $3
    WHERE organization_id = $1 AND member_id = $2 AND revoked_at IS NULL
)
UPDATE members SET removed_at = $3
WHERE organization_id = $1 AND member_id = $2 AND removed_at IS NULL;

-- name: insert_member_token
-- Makes a token of a member.
INSERT INTO member_tokens (
    token_hash, member_token_id, organization_id, member_id, prefix, created_at, expires_at
)
VALUES ($1, $2, $3, $4, $5, $6, $7)
RETURNING member_token_id, organization_id, member_id, prefix, created_at, expires_at, last_used_at;

-- name: list_member_tokens
-- The tokens of an organization's members that are good still, oldest first.
SELECT member_token_id, organization_id, member_id, prefix, created_at, expires_at, last_used_at
FROM member_tokens
WHERE organization_id = $1 AND member_id = ANY($2::uuid[]) AND revoked_at IS NULL AND expires_at > $3
ORDER BY created_at, member_token_id;

-- name: revoke_member_token
-- Ends a token; gives a row only when it was good before.
UPDATE member_tokens SET revoked_at = $3
WHERE organization_id = $1 AND member_token_id = $2 AND revoked_at IS NULL
RETURNING member_token_id, organization_id, member_id, prefix, created_at, expires_at, last_used_at;

-- name: find_member
-- Whose token it is: of somebody who is a member still, with a token that is not revoked.
SELECT m.organization_id, m.member_id, m.email, m.role, t.member_token_id, t.expires_at
FROM member_tokens AS t
JOIN members AS m USING (organization_id, member_id)
WHERE t.token_hash = $1 AND t.revoked_at IS NULL AND m.removed_at IS NULL;

-- name: touch_member_token
-- Notes that a token is in use, at most once a minute; a row that another gateway holds is left to it.
UPDATE member_tokens SET last_used_at = clock_timestamp()
WHERE member_token_id IN (
    SELECT member_token_id FROM member_tokens
    WHERE member_token_id = $1
        AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '1 minute')
    FOR NO KEY UPDATE SKIP LOCKED
);
