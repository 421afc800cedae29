-- What:  the event log, the counts of its types, and profiles.
-- Why:   see docs/architecture.md; every key starts with project_id, by which the log is also partitioned.
-- Locks: none that matter, all tables are new.
-- When:  before the first release that needs it.
--
-- Names and keys compare byte by byte (COLLATE "C"): their order is the same in Python and on every server, and
-- `push.%` can use an index.

CREATE TABLE events (
    project_id uuid NOT NULL,
    -- 1, 2, 3 … without gaps within the project, in commit order.
    seq bigint NOT NULL,
    -- Tells an append that is tried again after an ambiguous COMMIT from a duplicate.
    batch_token bigint NOT NULL,
    -- As the client says; else received_at.
    timestamp timestamptz NOT NULL,
    -- The database's clock under the head's lock, never less than that of the event before.
    received_at timestamptz NOT NULL,
    -- The idempotency key.
    key text COLLATE "C" NOT NULL,
    module text COLLATE "C" NOT NULL,
    event_type text COLLATE "C" NOT NULL,
    user_id text COLLATE "C",
    anonymous_id text COLLATE "C",
    properties jsonb NOT NULL,
    context jsonb NOT NULL,
    PRIMARY KEY (project_id, seq),
    UNIQUE (project_id, key),
    CHECK (octet_length(key) BETWEEN 1 AND 512),
    CHECK (octet_length(event_type) BETWEEN 1 AND 200)
) PARTITION BY HASH (project_id);

CREATE TABLE events_0 PARTITION OF events FOR VALUES WITH (MODULUS 8, REMAINDER 0);
CREATE TABLE events_1 PARTITION OF events FOR VALUES WITH (MODULUS 8, REMAINDER 1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES WITH (MODULUS 8, REMAINDER 2);
CREATE TABLE events_3 PARTITION OF events FOR VALUES WITH (MODULUS 8, REMAINDER 3);
CREATE TABLE events_4 PARTITION OF events FOR VALUES WITH (MODULUS 8, REMAINDER 4);
CREATE TABLE events_5 PARTITION OF events FOR VALUES WITH (MODULUS 8, REMAINDER 5);
CREATE TABLE events_6 PARTITION OF events FOR VALUES WITH (MODULUS 8, REMAINDER 6);
CREATE TABLE events_7 PARTITION OF events FOR VALUES WITH (MODULUS 8, REMAINDER 7);

CREATE INDEX events_by_type ON events (project_id, event_type, seq);
CREATE INDEX events_by_user ON events (project_id, user_id, seq) WHERE user_id IS NOT NULL;

-- How often each type was ever appended. Written under the lock of the project's events head only.
CREATE TABLE event_types (
    project_id uuid NOT NULL REFERENCES projects,
    event_type text COLLATE "C" NOT NULL,
    module text COLLATE "C" NOT NULL,
    count bigint NOT NULL CHECK (count > 0),
    -- The timestamp of the newest event (by seq) of this type.
    last_seen_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, event_type, module)
) WITH (fillfactor = 50);

-- Everyone who is named by an event's user_id. When a person was last seen is read from the log.
CREATE TABLE profiles (
    project_id uuid NOT NULL REFERENCES projects,
    profile_id uuid NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    anonymous boolean NOT NULL DEFAULT false,
    traits jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(traits) = 'object'),
    -- Which event set each trait: {"plan": [microseconds since 1970, "event key"]}. Kept for removed traits, too.
    trait_stamps jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(trait_stamps) = 'object'),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, user_id),
    UNIQUE (project_id, profile_id),
    CONSTRAINT profiles_traits_size CHECK (pg_column_size(traits) + pg_column_size(trait_stamps) <= 262144)
) WITH (fillfactor = 80);

CREATE INDEX profiles_by_creation ON profiles (project_id, created_at, profile_id);
