-- What:  regions of organizations, settings of projects, users with their sessions, members of organizations, the log of
--        consent, the audit log, what erasure leaves behind, and trusted documents.
-- Why:   see docs/architecture.md; who somebody is, what they allow, and what was changed by whom.
-- Locks: organizations, projects and api_keys for the time of reading them once (some rows each); all else is new.
-- When:  before the release that needs it.

-- Chosen when an organization is made: one deployment per region. Nobody can move it afterwards.
ALTER TABLE organizations ADD COLUMN region text;
UPDATE organizations AS o
SET region = coalesce((SELECT p.region FROM projects AS p WHERE p.organization_id = o.organization_id LIMIT 1), 'us');
ALTER TABLE organizations
    ALTER COLUMN region SET NOT NULL,
    ADD CONSTRAINT organizations_region_check CHECK (region IN ('us', 'eu')),
    ADD CONSTRAINT organizations_region_key UNIQUE (organization_id, region);
ALTER TABLE projects
    ADD CONSTRAINT projects_region_fkey FOREIGN KEY (organization_id, region)
    REFERENCES organizations (organization_id, region);

-- What a project has chosen; no row means the defaults that stand here.
CREATE TABLE project_settings (
    project_id uuid PRIMARY KEY REFERENCES projects,
    require_signed_identity boolean NOT NULL DEFAULT false,
    -- What UNKNOWN consent means; NULL follows the region: allow in us, deny in eu.
    allow_unknown_consent boolean,
    default_timezone text NOT NULL DEFAULT 'UTC',
    default_locale text NOT NULL DEFAULT 'en',
    -- Whether operations outside the registry of trusted documents are refused.
    require_trusted_documents boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL
);

-- What apps' servers sign user ids with. At most one has no end; earlier ones hold until theirs.
CREATE TABLE identity_secrets (
    project_id uuid NOT NULL REFERENCES projects,
    identity_secret_id uuid NOT NULL,
    sealed_secret bytea NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    PRIMARY KEY (project_id, identity_secret_id)
);

CREATE UNIQUE INDEX identity_secrets_current ON identity_secrets (project_id) WHERE expires_at IS NULL;

-- End users of the host app who have, or had once, a session: anonymous until they have an email address.
CREATE TABLE users (
    project_id uuid NOT NULL REFERENCES projects,
    user_id text COLLATE "C" NOT NULL,
    -- In lower case; NULL while anonymous.
    email text COLLATE "C",
    -- Argon2id, with its parameters and salt.
    password_hash text,
    -- A second factor that is being enrolled, or is asked for once it is confirmed.
    sealed_totp_secret bytea,
    totp_confirmed_at timestamptz,
    -- The time step of the last code that was taken: each is good once.
    totp_step bigint,
    -- SHA-256 of the codes that stand in for a lost second factor, each good once.
    recovery_code_hashes bytea[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL,
    signed_up_at timestamptz,
    PRIMARY KEY (project_id, user_id),
    CHECK ((email IS NULL) = (password_hash IS NULL)),
    CHECK ((email IS NULL) = (signed_up_at IS NULL)),
    CHECK (totp_confirmed_at IS NULL OR sealed_totp_secret IS NOT NULL)
);

CREATE UNIQUE INDEX users_by_email ON users (project_id, email) WHERE email IS NOT NULL;

-- A session is a family of refresh tokens: it ends when one of them comes back a second time.
CREATE TABLE sessions (
    project_id uuid NOT NULL REFERENCES projects,
    session_id uuid NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    anonymous boolean NOT NULL,
    -- As the app names the device.
    device_id text COLLATE "C",
    created_at timestamptz NOT NULL,
    last_used_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    ended_reason text CHECK (
        ended_reason IN ('SIGNED_OUT', 'TOKEN_REUSED', 'TAKEN_OVER', 'UPGRADED', 'PASSWORD_CHANGED')
    ),
    -- Who took over the anonymous user of an ended session.
    taken_over_by text COLLATE "C",
    -- The profile that was deleted then: whoever asks again is told the same.
    retired_profile_id uuid,
    PRIMARY KEY (project_id, session_id),
    CHECK ((ended_at IS NULL) = (ended_reason IS NULL)),
    CHECK ((ended_reason = 'TAKEN_OVER') IS NOT FALSE OR taken_over_by IS NULL)
);

CREATE INDEX sessions_by_user ON sessions (project_id, user_id, created_at);
CREATE INDEX sessions_by_heir ON sessions (project_id, taken_over_by) WHERE taken_over_by IS NOT NULL;
CREATE INDEX sessions_by_expiry ON sessions (expires_at);

CREATE TABLE refresh_tokens (
    project_id uuid NOT NULL REFERENCES projects,
    -- SHA-256 of the whole token, which itself is stored nowhere.
    token_hash bytea NOT NULL CHECK (octet_length(token_hash) = 32),
    session_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    used_at timestamptz,
    PRIMARY KEY (project_id, token_hash),
    FOREIGN KEY (project_id, session_id) REFERENCES sessions ON DELETE CASCADE
);

CREATE INDEX refresh_tokens_by_session ON refresh_tokens (project_id, session_id);
CREATE INDEX refresh_tokens_spent ON refresh_tokens (used_at) WHERE used_at IS NOT NULL;

-- What access tokens are signed with, in the whole deployment. Published before it signs, and until what it signed is over.
CREATE TABLE signing_keys (
    key_id text COLLATE "C" PRIMARY KEY,
    public_jwk jsonb NOT NULL,
    sealed_private_key bytea NOT NULL,
    created_at timestamptz NOT NULL,
    signs_from timestamptz NOT NULL,
    published_until timestamptz
);

-- Sign-ins that failed, by account and by address. Nobody can be read from it: `subject` is a keyed hash of either.
CREATE TABLE sign_in_failures (
    project_id uuid NOT NULL REFERENCES projects,
    subject bytea NOT NULL CHECK (octet_length(subject) = 32),
    failures integer NOT NULL CHECK (failures > 0),
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    -- No sign-in is looked at before.
    blocked_until timestamptz,
    -- When `auth.signin_storm` was last told of it.
    storm_at timestamptz,
    PRIMARY KEY (project_id, subject)
);

CREATE INDEX sign_in_failures_by_age ON sign_in_failures (last_at);

-- Who works with an organization's projects: people of the dashboard, not end users.
CREATE TABLE members (
    organization_id uuid NOT NULL REFERENCES organizations,
    member_id uuid NOT NULL,
    -- In lower case.
    email text COLLATE "C" NOT NULL CHECK (email <> ''),
    role text NOT NULL CHECK (role IN ('VIEWER', 'EDITOR', 'ADMIN')),
    created_at timestamptz NOT NULL,
    removed_at timestamptz,
    PRIMARY KEY (organization_id, member_id)
);

CREATE UNIQUE INDEX members_by_email ON members (organization_id, email) WHERE removed_at IS NULL;

CREATE TABLE member_tokens (
    -- SHA-256 of the whole token, which itself is stored nowhere.
    token_hash bytea PRIMARY KEY CHECK (octet_length(token_hash) = 32),
    member_token_id uuid NOT NULL UNIQUE,
    organization_id uuid NOT NULL,
    member_id uuid NOT NULL,
    -- What may be shown of the token.
    prefix text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    last_used_at timestamptz,
    revoked_at timestamptz,
    FOREIGN KEY (organization_id, member_id) REFERENCES members
);

CREATE INDEX member_tokens_by_member ON member_tokens (organization_id, member_id, created_at);

-- Every word about consent, in order. Each row's hash covers the one before, and of the person only a commitment: the
-- hash of what is personal with a salt. Erasure takes the salt and what is personal, and the chain still holds.
CREATE TABLE consent_changes (
    project_id uuid NOT NULL REFERENCES projects,
    -- 1, 2, 3 … without gaps within the project.
    seq bigint NOT NULL CHECK (seq > 0),
    consent_change_id uuid NOT NULL,
    -- NULL after erasure, like salt, source and actor.
    user_id text COLLATE "C",
    source text,
    actor text,
    salt bytea,
    purpose text NOT NULL CHECK (purpose IN ('EMAIL', 'PUSH', 'SMS', 'ANALYTICS', 'WORKFLOWS')),
    from_state text NOT NULL CHECK (from_state IN ('GRANTED', 'DENIED', 'REVOKED', 'UNKNOWN')),
    to_state text NOT NULL CHECK (to_state IN ('GRANTED', 'DENIED', 'REVOKED', 'UNKNOWN')),
    at timestamptz NOT NULL,
    -- SHA-256 of salt, user_id, source and actor.
    commitment bytea NOT NULL CHECK (octet_length(commitment) = 32),
    -- SHA-256 of the hash before (32 zero bytes at first) and of everything here that stays.
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (project_id, seq),
    UNIQUE (project_id, consent_change_id),
    CHECK ((user_id IS NULL) = (salt IS NULL) AND (user_id IS NULL) = (source IS NULL)
        AND (user_id IS NULL) = (actor IS NULL))
);

CREATE INDEX consent_changes_by_user ON consent_changes (project_id, user_id, seq) WHERE user_id IS NOT NULL;
CREATE INDEX consent_changes_by_time ON consent_changes (project_id, at, seq);

-- Where the chain of a project ends. Locked by whoever adds to it: after profiles and consents, before the lanes' heads.
CREATE TABLE consent_chains (
    project_id uuid PRIMARY KEY REFERENCES projects,
    seq bigint NOT NULL CHECK (seq > 0),
    hash bytea NOT NULL CHECK (octet_length(hash) = 32)
) WITH (fillfactor = 50);

-- Rows come, and lose what is personal when their person is erased. Nothing else ever happens to them.
CREATE FUNCTION keep_consent_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.user_id IS NULL AND OLD.user_id IS NOT NULL
            AND (NEW.project_id, NEW.seq, NEW.consent_change_id, NEW.purpose, NEW.from_state, NEW.to_state, NEW.at,
                NEW.commitment, NEW.hash)
            = (OLD.project_id, OLD.seq, OLD.consent_change_id, OLD.purpose, OLD.from_state, OLD.to_state, OLD.at,
                OLD.commitment, OLD.hash)
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the log of consent is only ever added to' USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER consent_changes_kept BEFORE UPDATE OR DELETE ON consent_changes
FOR EACH ROW EXECUTE FUNCTION keep_consent_changes();
CREATE TRIGGER consent_changes_never_emptied BEFORE TRUNCATE ON consent_changes
FOR EACH STATEMENT EXECUTE FUNCTION keep_consent_changes();

-- Who changed what. Secrets are masked before they come here.
CREATE TABLE audit_entries (
    project_id uuid NOT NULL REFERENCES projects,
    audit_entry_id uuid NOT NULL,
    at timestamptz NOT NULL,
    -- api_key:<prefix>, member:<email>, user:<user_id>, operator, system.
    actor text COLLATE "C" NOT NULL,
    -- object.past_tense_verb, e.g. workflow.saved.
    action text COLLATE "C" NOT NULL,
    -- The node id of what was changed, or user:<user_id>.
    subject text COLLATE "C" NOT NULL,
    before jsonb,
    after jsonb,
    -- The person whom the entry is about, for erasure.
    user_id text COLLATE "C",
    PRIMARY KEY (project_id, audit_entry_id)
);

CREATE INDEX audit_entries_by_time ON audit_entries (project_id, at, audit_entry_id);
CREATE INDEX audit_entries_by_subject ON audit_entries (project_id, subject, at, audit_entry_id);
CREATE INDEX audit_entries_by_actor ON audit_entries (project_id, actor);
CREATE INDEX audit_entries_by_user ON audit_entries (project_id, user_id) WHERE user_id IS NOT NULL;

-- Receipts of erasures. Nobody can be read from it: `person_hash` is HMAC-SHA256 of the user id under the project's salt.
CREATE TABLE erasures (
    project_id uuid NOT NULL REFERENCES projects,
    erasure_id uuid NOT NULL,
    person_hash bytea NOT NULL CHECK (octet_length(person_hash) = 32),
    profile_id uuid NOT NULL,
    erased_at timestamptz NOT NULL,
    -- Rows removed, by kind of record.
    removed jsonb NOT NULL CHECK (jsonb_typeof(removed) = 'object'),
    PRIMARY KEY (project_id, erasure_id)
);

CREATE INDEX erasures_by_person ON erasures (project_id, person_hash);

-- Items of the lanes that erasure took: readers skip them, and a check of the log knows that nothing was lost.
CREATE TABLE tombstones (
    project_id uuid NOT NULL,
    lane smallint NOT NULL CHECK (lane BETWEEN 1 AND 4),
    seq bigint NOT NULL CHECK (seq > 0),
    PRIMARY KEY (project_id, lane, seq)
);

-- Keys of events that erasure took, so that an SDK's retry does not bring the person back: SHA-256 of the project's salt
-- followed by the key.
CREATE TABLE erased_keys (
    project_id uuid NOT NULL,
    key_hash bytea NOT NULL CHECK (octet_length(key_hash) = 32),
    seq bigint NOT NULL CHECK (seq > 0),
    PRIMARY KEY (project_id, key_hash)
);

-- Documents that clients may name by their hash, and the only ones that run where a project says so.
CREATE TABLE trusted_documents (
    project_id uuid NOT NULL REFERENCES projects,
    -- SHA-256 of the document's UTF-8 text.
    document_hash bytea NOT NULL CHECK (octet_length(document_hash) = 32),
    name text NOT NULL,
    document text NOT NULL CHECK (octet_length(document) BETWEEN 1 AND 400000),
    created_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, document_hash)
);
