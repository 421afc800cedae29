-- name: read_signing_keys
-- What access tokens are or were signed with and anybody may still look up, in the order in which they sign.
SELECT key_id, public_jwk, sealed_private_key, created_at, signs_from, published_until
FROM signing_keys
WHERE published_until IS NULL OR published_until > $1
ORDER BY signs_from, key_id;

-- name: lock_signing_keys
-- Lets nobody else write signing keys until the transaction ends; reading goes on.
LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE;

-- name: insert_signing_key
-- Makes a signing key.
INSERT INTO signing_keys (key_id, public_jwk, sealed_private_key, created_at, signs_from)
VALUES ($1, $2, $3, $4, $5);

-- name: end_signing_keys
-- Gives every key but one an end, or an earlier one.
UPDATE signing_keys SET published_until = least(published_until, $2)
WHERE key_id <> $1;

-- name: delete_signing_keys
-- Deletes the keys that nobody may look up any more.
DELETE FROM signing_keys
WHERE published_until <= $1;
