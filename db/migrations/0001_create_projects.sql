-- What:  organizations, their projects, API keys, and one head per lane of a project.
-- Why:   everything else belongs to a project; the heads number the log.
-- Locks: none that matter, all tables are new.
-- When:  before the first release that needs it.

CREATE TABLE organizations (
    organization_id uuid PRIMARY KEY,
    name text NOT NULL CHECK (name <> ''),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE projects (
    project_id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations,
    name text NOT NULL CHECK (name <> ''),
    region text NOT NULL CHECK (region IN ('us', 'eu')),
    -- Keys the hash of client addresses. Never leaves the gateway.
    salt bytea NOT NULL CHECK (octet_length(salt) >= 16),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX projects_by_organization ON projects (organization_id, created_at, project_id);

CREATE TABLE api_keys (
    api_key_id uuid PRIMARY KEY,
    project_id uuid NOT NULL REFERENCES projects,
    name text NOT NULL CHECK (name <> ''),
    kind text NOT NULL CHECK (kind IN ('PUBLISHABLE', 'SECRET')),
    environment text NOT NULL CHECK (environment IN ('DEV', 'PROD')),
    role text NOT NULL CHECK (role IN ('INGEST', 'VIEWER', 'EDITOR', 'ADMIN')),
    -- What may be shown of the token.
    prefix text NOT NULL,
    -- SHA-256 of the whole token, which itself is stored nowhere.
    token_hash bytea NOT NULL UNIQUE CHECK (octet_length(token_hash) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    revoked_at timestamptz,
    CHECK (kind = 'SECRET' OR role <> 'ADMIN')
);

CREATE INDEX api_keys_by_project ON api_keys (project_id, created_at, api_key_id);

-- One row per project and lane (1 events, 2 deliveries, 3 runs, 4 audiences), updated by every append. No index but the
-- primary key, and room on each page, so that an update stays on its page and needs no index entry (HOT). That makes
-- "which heads changed" a scan of this table, which the relay does once a second; about 100 bytes a row.
CREATE TABLE heads (
    project_id uuid NOT NULL REFERENCES projects,
    lane smallint NOT NULL CHECK (lane BETWEEN 1 AND 4),
    epoch integer NOT NULL DEFAULT 1 CHECK (epoch > 0),
    -- The seq of the newest item; 0 when there is none.
    head bigint NOT NULL DEFAULT 0,
    -- The oldest seq that retention has kept; head + 1 when it has kept none.
    first_seq bigint NOT NULL DEFAULT 1,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, lane),
    CHECK (head >= 0 AND first_seq BETWEEN 1 AND head + 1)
) WITH (fillfactor = 25, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);

-- The project whose events lane is the log of revocations, which every gateway follows. Nobody can have a key to it:
-- its salt is random and unknown, and createApiKey takes the caller's own project.
INSERT INTO organizations (organization_id, name) VALUES ('00000000-0000-0000-0000-000000000000', 'system');
INSERT INTO projects (project_id, organization_id, name, region, salt)
VALUES (
    '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', 'system', 'us',
    sha256(CAST(gen_random_uuid() AS text)::bytea)
);
INSERT INTO heads (project_id, lane)
SELECT '00000000-0000-0000-0000-000000000000', lane FROM generate_series(1, 4) AS lane;
