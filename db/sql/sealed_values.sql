-- name: list_sealed_values
-- Everything that is sealed at rest, in all projects; a delivery to a bare URL keeps what it was made with.
SELECT 'provider' AS place, project_id, provider_id AS id, kind AS name, sealed_secrets AS sealed
FROM providers
WHERE sealed_secrets IS NOT NULL
UNION ALL
SELECT 'webhook_secret', project_id, secret_id, endpoint_id::text, sealed_secret
FROM webhook_secrets
UNION ALL
SELECT 'workflow_secret', project_id, secret_id, '', sealed_secret
FROM workflow_secrets
UNION ALL
SELECT 'inbound_endpoint', project_id, endpoint_id, '', sealed_secret
FROM inbound_endpoints
UNION ALL
SELECT 'sender_domain', project_id, sender_domain_id, domain, sealed_dkim_private_key
FROM sender_domains
UNION ALL
SELECT 'identity_secret', project_id, identity_secret_id, '', sealed_secret
FROM identity_secrets
UNION ALL
SELECT 'signing_key', CAST('00000000-0000-0000-0000-000000000000' AS uuid), NULL, key_id, sealed_private_key
FROM signing_keys
UNION ALL
SELECT 'totp_secret', project_id, NULL, user_id, sealed_totp_secret
FROM users
WHERE sealed_totp_secret IS NOT NULL
ORDER BY place, project_id, id, name;

-- name: reseal_provider
-- Replaces what a provider's secrets are sealed to, unless they have changed.
UPDATE providers SET sealed_secrets = $4
WHERE project_id = $1 AND provider_id = $2 AND sealed_secrets = $3;

-- name: reseal_webhook_secret
-- Replaces what a webhook secret is sealed to, unless it has changed.
UPDATE webhook_secrets SET sealed_secret = $4
WHERE project_id = $1 AND secret_id = $2 AND sealed_secret = $3;

-- name: reseal_workflow_secret
-- Replaces what a secret for steps of workflows is sealed to, unless it has changed.
UPDATE workflow_secrets SET sealed_secret = $4
WHERE project_id = $1 AND secret_id = $2 AND sealed_secret = $3;

-- name: reseal_inbound_endpoint
-- Replaces what an inbound endpoint's secret is sealed to, unless it has changed.
UPDATE inbound_endpoints SET sealed_secret = $4
WHERE project_id = $1 AND endpoint_id = $2 AND sealed_secret = $3;

-- name: reseal_sender_domain
-- Replaces what a domain's private key is sealed to, unless it has changed.
UPDATE sender_domains SET sealed_dkim_private_key = $4
WHERE project_id = $1 AND sender_domain_id = $2 AND sealed_dkim_private_key = $3;

-- name: reseal_identity_secret
-- Replaces what an identity secret is sealed to, unless it has changed.
UPDATE identity_secrets SET sealed_secret = $4
WHERE project_id = $1 AND identity_secret_id = $2 AND sealed_secret = $3;

-- name: reseal_signing_key
-- Replaces what a signing key's private half is sealed to, unless it has changed; the keys are the deployment's.
UPDATE signing_keys SET sealed_private_key = $4
WHERE CAST($1 AS uuid) IS NOT NULL AND key_id = $2 AND sealed_private_key = $3;

-- name: reseal_totp_secret
-- Replaces what the secret of a user's second factor is sealed to, unless it has changed.
UPDATE users SET sealed_totp_secret = $4
WHERE project_id = $1 AND user_id = $2 AND sealed_totp_secret = $3;
