-- The schema today: what all migrations together make of an empty database. For reading, and held to it by a test.

CREATE TABLE schema_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE organizations (
    organization_id uuid PRIMARY KEY,
    name text NOT NULL CHECK (name <> ''),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- One deployment per region.
    region text NOT NULL CHECK (region IN ('us', 'eu')),
    CONSTRAINT organizations_region_key UNIQUE (organization_id, region)
);

CREATE TABLE projects (
    project_id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations,
    name text NOT NULL CHECK (name <> ''),
    region text NOT NULL CHECK (region IN ('us', 'eu')),
    -- Keys the hash of client addresses. Never leaves the gateway.
    salt bytea NOT NULL CHECK (octet_length(salt) >= 16),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT projects_region_fkey FOREIGN KEY (organization_id, region)
    REFERENCES organizations (organization_id, region)
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
INSERT INTO organizations (organization_id, name, region) VALUES ('00000000-0000-0000-0000-000000000000', 'system', 'us');
INSERT INTO projects (project_id, organization_id, name, region, salt)
VALUES (
    '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', 'system', 'us',
    sha256(CAST(gen_random_uuid() AS text)::bytea)
);
INSERT INTO heads (project_id, lane)
SELECT '00000000-0000-0000-0000-000000000000', lane FROM generate_series(1, 4) AS lane;

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
-- Whoever has signed up is found by their user id.
CREATE INDEX events_by_anonymous ON events (project_id, anonymous_id, seq)
WHERE anonymous_id IS NOT NULL AND user_id IS NULL;

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

-- Whom an id stands for. A person is an identity: what they did before they signed up is theirs.
--
-- `user_id` is the end of the way: no link's user_id is the alias of a user's link, so that one hop is enough. Written
-- under the lock of the project's events head only.
CREATE TABLE identity_links (
    project_id uuid NOT NULL REFERENCES projects,
    -- Of the alias: an anonymous id that a user turned out to be, or a user that another one took over.
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('ANONYMOUS_ID', 'USER_ID')),
    alias text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    -- The event that said so.
    linked_seq bigint NOT NULL CHECK (linked_seq > 0),
    PRIMARY KEY (project_id, kind, alias),
    CHECK (kind <> 'USER_ID' OR alias <> user_id)
);

CREATE INDEX identity_links_by_user ON identity_links (project_id, user_id);

-- Of the keys of a batch those whose events are not to be stored; either is NULL when there are none. For append_events.
--
-- An event is for the user whom it names, or whom its anonymous id is known to be, from the log or from the same batch;
-- a user who was taken over is who took them over. Whoever is not known has said nothing. An event that names nobody at
-- all is nobody's, and asks for no consent.
CREATE FUNCTION unwanted_keys(
    p_project_id uuid,
    p_check_consent boolean,
    p_keys text[],
    p_modules text[],
    p_user_ids text[],
    p_anonymous_ids text[],
    OUT dropped_keys text[],
    OUT erased_keys text[]
)
LANGUAGE plpgsql VOLATILE
-- Whatever is looked up here has one index that leads to it, so that a plan once made stays good.
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    c_module CONSTANT text := 'analytics';
    v_unknown_allowed boolean;
    v_is_said boolean;
    -- Whose the anonymous ids are that the batch itself says something of.
    v_users jsonb;
    v_refused_users jsonb;
    v_refused_devices jsonb;
    v_found text[];
BEGIN
    IF (SELECT true FROM erased_keys AS x WHERE x.project_id = p_project_id LIMIT 1) THEN
        SELECT array_agg(input.key) INTO v_found
        FROM unnest(p_keys) AS input (key)
        WHERE (
            SELECT true FROM erased_keys AS x
            WHERE x.project_id = p_project_id AND x.key_hash = sha256(
                (SELECT p.salt FROM projects AS p WHERE p.project_id = p_project_id) || convert_to(input.key, 'UTF8')
            )
            LIMIT 1
        );
        erased_keys := v_found;
    END IF;
    IF NOT p_check_consent OR c_module <> ALL (p_modules) THEN
        RETURN;
    END IF;

    -- As in engine.consent: what a project does about people who have said nothing is its own choice, or its region's.
    SELECT coalesce(
            (SELECT s.allow_unknown_consent FROM project_settings AS s WHERE s.project_id = p_project_id),
            p.region = 'us'
        ),
        (
            SELECT true FROM consents AS c
            WHERE CAST(c.project_id AS text) = CAST(p_project_id AS text)
                AND c.purpose = 'ANALYTICS' AND c.state IN ('DENIED', 'REVOKED')
            LIMIT 1
        )
    INTO v_unknown_allowed, v_is_said
    FROM projects AS p
    WHERE p.project_id = p_project_id;
    IF v_unknown_allowed AND v_is_said IS NULL THEN
        RETURN;
    END IF;

    SELECT jsonb_object_agg(input.anonymous_id, input.user_id ORDER BY input.ordinal DESC) INTO v_users
    FROM unnest(p_user_ids, p_anonymous_ids) WITH ORDINALITY AS input (user_id, anonymous_id, ordinal)
    WHERE input.user_id IS NOT NULL AND input.anonymous_id IS NOT NULL;
    -- Each person is asked once, however many of the events are theirs.
    SELECT jsonb_object_agg(named.user_id, true) FILTER (WHERE named.user_id IS NOT NULL),
        jsonb_object_agg(named.anonymous_id, true) FILTER (WHERE named.user_id IS NULL)
    INTO v_refused_users, v_refused_devices
    FROM (
        SELECT who.user_id, who.anonymous_id, coalesce(
            who.user_id,
            (
                SELECT l.user_id FROM identity_links AS l
                WHERE l.project_id = p_project_id AND l.kind = 'ANONYMOUS_ID' AND l.alias = who.anonymous_id
                LIMIT 1
            ),
            v_users ->> who.anonymous_id
        ) AS person
        FROM (
            SELECT DISTINCT input.user_id, CASE WHEN input.user_id IS NULL THEN input.anonymous_id END AS anonymous_id
            FROM unnest(p_modules, p_user_ids, p_anonymous_ids) AS input (module, user_id, anonymous_id)
            WHERE input.module = c_module AND (input.user_id IS NOT NULL OR input.anonymous_id IS NOT NULL)
        ) AS who
        OFFSET 0
    ) AS named
    WHERE NOT coalesce(
        (
            SELECT c.state = 'GRANTED' OR (c.state = 'UNKNOWN' AND v_unknown_allowed)
            FROM consents AS c
            WHERE c.project_id = p_project_id AND c.purpose = 'ANALYTICS' AND c.user_id = coalesce(
                (
                    SELECT l.user_id FROM identity_links AS l
                    WHERE l.project_id = p_project_id AND l.kind = 'USER_ID' AND l.alias = named.person
                    LIMIT 1
                ),
                named.person
            )
            LIMIT 1
        ),
        v_unknown_allowed
    );
    IF v_refused_users IS NULL AND v_refused_devices IS NULL THEN
        RETURN;
    END IF;
    SELECT array_agg(input.key) INTO v_found
    FROM unnest(p_keys, p_modules, p_user_ids, p_anonymous_ids) AS input (key, module, user_id, anonymous_id)
    WHERE input.module = c_module
        AND (v_refused_users ? input.user_id OR (input.user_id IS NULL AND v_refused_devices ? input.anonymous_id));
    dropped_keys := v_found;
END
$$;

CREATE FUNCTION append_events(
    p_project_id uuid,
    -- The same token with the same keys is the same append, tried again.
    p_batch_token bigint,
    -- One array per column, one element per event, all keys different.
    p_keys text[],
    p_modules text[],
    p_event_types text[],
    p_timestamps timestamptz[],
    p_user_ids text[],
    p_anonymous_ids text[],
    p_properties text[],
    p_contexts text[],
    -- A JSON object to merge into the profile of the event's user_id, or NULL.
    p_traits text[],
    -- Every user_id of the batch once, and the id that its profile gets if it has none yet.
    p_profile_user_ids text[],
    p_profile_ids uuid[],
    -- Whether events of module analytics are kept only of people whose consent allows it: those that clients send.
    p_check_consent boolean DEFAULT false
) RETURNS TABLE (
    epoch integer,
    received_at timestamptz,
    -- New events got the seqs that follow it, in the order given.
    previous_head bigint,
    -- The keys that were stored already, where, and whether by an earlier try of this very append. NULL when all are new.
    held_keys text[],
    held_seqs bigint[],
    held_mine boolean[],
    -- The keys of events that their people's consent does not allow: they are not stored. NULL when there are none.
    dropped_keys text[],
    -- The keys that were stored once and whose events were erased since: nothing is stored. NULL when there are none.
    erased_keys text[]
)
LANGUAGE plpgsql VOLATILE
-- A plan that was made while a table was small must not be kept when it has grown, and without statistics (nothing was
-- analysed yet) the planner takes a whole project for a few rows. So plans are made anew, tables are read by index only,
-- and what is looked up per event is written so that no join can be made of it: (SELECT … LIMIT 1).
SET plan_cache_mode = force_custom_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    c_events_lane CONSTANT smallint := 1;
    c_clock_tolerance CONSTANT interval := '5 minutes';
    v_new_user_ids text[];
    v_new_profile_ids uuid[];
    v_named_user_ids text[];
    v_trait_user_ids text[];
    -- Keys of events that made or changed a profile: none of them may turn out to be a duplicate.
    v_effective_keys text[] := '{}';
    v_skipped_keys text[];
    -- What was not to be stored when profiles were looked at, and what is not under the lock of the head.
    v_unwanted record;
    v_foreseen_keys text[] := '{}';
    v_dropped_keys text[];
    v_erased_keys text[];
    v_now timestamptz;
    v_epoch integer;
    v_head bigint;
    v_held_keys text[];
    v_held_seqs bigint[];
    v_held_mine boolean[];
    v_inserted bigint;
    -- Where the log stood when profiles were looked at: erasing somebody moves it.
    v_seen_head bigint;
BEGIN
    SELECT h.head INTO v_seen_head FROM heads AS h WHERE h.project_id = p_project_id AND h.lane = c_events_lane;

    -- 1. Profiles that are missing, except those named only by events that are stored already, and those of users who
    --    are somebody else by now: theirs was deleted, and does not come back with a late event.
    SELECT array_agg(candidate.user_id), array_agg(candidate.profile_id)
    INTO v_new_user_ids, v_new_profile_ids
    FROM unnest(p_profile_user_ids, p_profile_ids) AS candidate (user_id, profile_id)
    WHERE (
        SELECT true FROM profiles AS p
        WHERE p.project_id = p_project_id AND p.user_id = candidate.user_id
        LIMIT 1
    ) IS NULL;
    IF v_new_user_ids IS NOT NULL THEN
        -- By itself, because looking for those who are missing is planned for every append.
        SELECT array_agg(candidate.user_id), array_agg(candidate.profile_id)
        INTO v_new_user_ids, v_new_profile_ids
        FROM unnest(v_new_user_ids, v_new_profile_ids) AS candidate (user_id, profile_id)
        WHERE (
            SELECT true FROM identity_links AS l
            WHERE l.project_id = p_project_id AND l.kind = 'USER_ID' AND l.alias = candidate.user_id
            LIMIT 1
        ) IS NULL;
    END IF;
    SELECT array_agg(DISTINCT input.user_id COLLATE "C") INTO v_trait_user_ids
    FROM unnest(p_user_ids, p_traits) AS input (user_id, traits)
    WHERE input.traits IS NOT NULL AND input.user_id IS NOT NULL;
    IF v_new_user_ids IS NOT NULL OR v_trait_user_ids IS NOT NULL THEN
        v_unwanted := unwanted_keys(p_project_id, p_check_consent, p_keys, p_modules, p_user_ids, p_anonymous_ids);
        v_foreseen_keys := coalesce(v_unwanted.dropped_keys, '{}') || coalesce(v_unwanted.erased_keys, '{}');
    END IF;
    IF v_new_user_ids IS NOT NULL THEN
        SELECT coalesce(array_agg(input.key), '{}') INTO v_skipped_keys
        FROM unnest(p_keys, p_user_ids) AS input (key, user_id)
        WHERE input.user_id = ANY (v_new_user_ids)
            AND (SELECT true FROM events AS e WHERE e.project_id = p_project_id AND e.key = input.key LIMIT 1);

        SELECT coalesce(array_agg(input.key), '{}'), coalesce(array_agg(input.user_id), '{}')
        INTO v_effective_keys, v_named_user_ids
        FROM unnest(p_keys, p_user_ids) AS input (key, user_id)
        WHERE input.user_id = ANY (v_new_user_ids) AND input.key <> ALL (v_skipped_keys || v_foreseen_keys);

        INSERT INTO profiles (project_id, profile_id, user_id, created_at)
        SELECT p_project_id, candidate.profile_id, candidate.user_id, clock_timestamp()
        FROM unnest(v_new_user_ids, v_new_profile_ids) AS candidate (user_id, profile_id)
        WHERE candidate.user_id = ANY (v_named_user_ids)
        ORDER BY candidate.user_id COLLATE "C"
        ON CONFLICT DO NOTHING;
    END IF;

    -- 2. Traits: lock the profiles in order, then see (in a statement after the wait) what is stored already.
    IF v_trait_user_ids IS NOT NULL THEN
        PERFORM FROM (
            SELECT u.user_id FROM unnest(v_trait_user_ids) AS u (user_id) ORDER BY u.user_id COLLATE "C"
        ) AS person
        CROSS JOIN LATERAL (
            SELECT FROM profiles AS p
            WHERE p.project_id = p_project_id AND p.user_id = person.user_id
            LIMIT 1
            FOR NO KEY UPDATE
        ) AS locked;
        v_now := clock_timestamp();

        SELECT coalesce(array_agg(input.key), '{}') INTO v_skipped_keys
        FROM unnest(p_keys, p_traits) AS input (key, traits)
        WHERE input.traits IS NOT NULL
            AND (SELECT true FROM events AS e WHERE e.project_id = p_project_id AND e.key = input.key LIMIT 1);
        v_skipped_keys := v_skipped_keys || v_foreseen_keys;

        SELECT v_effective_keys || coalesce(array_agg(input.key), '{}') INTO v_effective_keys
        FROM unnest(p_keys, p_traits) AS input (key, traits)
        WHERE input.traits IS NOT NULL AND input.key <> ALL (v_skipped_keys);

        WITH incoming AS (
            -- Of the batch's own values for one trait the last wins …
            SELECT DISTINCT ON (stamped.user_id, trait.key)
                stamped.user_id, trait.key AS name, trait.value, stamped.stamp, stamped.key AS event_key
            FROM (
                SELECT input.user_id, input.key COLLATE "C" AS key, CAST(input.traits AS jsonb) AS traits,
                    CAST(extract(epoch FROM least(coalesce(input.timestamp, v_now), v_now + c_clock_tolerance))
                        * 1000000 AS bigint) AS stamp
                FROM unnest(p_keys, p_timestamps, p_user_ids, p_traits) AS input (key, timestamp, user_id, traits)
                WHERE input.traits IS NOT NULL AND input.user_id IS NOT NULL AND input.key <> ALL (v_skipped_keys)
            ) AS stamped
            CROSS JOIN LATERAL jsonb_each(stamped.traits) AS trait
            ORDER BY stamped.user_id, trait.key, stamped.stamp DESC, stamped.key DESC
        ),
        later AS (
            -- … and it counts only where it is later than the profile's.
            SELECT incoming.user_id, incoming.name, incoming.value, incoming.stamp, incoming.event_key
            FROM incoming
            CROSS JOIN LATERAL (
                SELECT p.trait_stamps -> incoming.name AS stamp FROM profiles AS p
                WHERE p.project_id = p_project_id AND p.user_id = incoming.user_id
                LIMIT 1
            ) AS held
            WHERE held.stamp IS NULL OR
                (CAST(held.stamp ->> 0 AS bigint), (held.stamp ->> 1) COLLATE "C") < (incoming.stamp, incoming.event_key)
        ),
        changes AS (
            SELECT later.user_id,
                array_agg(later.name) AS names,
                jsonb_object_agg(later.name, later.value) AS traits,
                jsonb_object_agg(later.name, jsonb_build_array(later.stamp, later.event_key)) AS stamps
            FROM later
            GROUP BY later.user_id
        )
        UPDATE profiles AS p
        SET traits = (p.traits - changes.names) || coalesce(
                (SELECT jsonb_object_agg(t.key, t.value) FROM jsonb_each(changes.traits) AS t WHERE t.value <> 'null'),
                '{}'
            ),
            trait_stamps = p.trait_stamps || changes.stamps
        FROM changes
        CROSS JOIN LATERAL (
            -- Where the row is cannot change: it is locked.
            SELECT q.ctid AS place FROM profiles AS q
            WHERE q.project_id = p_project_id AND q.user_id = changes.user_id
            LIMIT 1
        ) AS found
        WHERE p.ctid = found.place;
    END IF;

    -- 3. The head, in a statement of its own: the next one must see what was committed while this one waited.
    SELECT h.epoch, h.head, greatest(clock_timestamp(), h.changed_at)
    INTO v_epoch, v_head, v_now
    FROM heads AS h
    WHERE h.project_id = p_project_id AND h.lane = c_events_lane
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'project % has no events lane', p_project_id USING ERRCODE = 'foreign_key_violation';
    END IF;

    -- An IF of its own: a condition with a query in it is planned whether it comes to that or not.
    IF v_head <> v_seen_head THEN
        IF (
            SELECT true FROM unnest(p_profile_user_ids) AS named (user_id)
            WHERE named.user_id <> ALL (coalesce(v_new_user_ids, '{}'))
                AND (
                    SELECT true FROM profiles AS p
                    WHERE p.project_id = p_project_id AND p.user_id = named.user_id
                    LIMIT 1
                ) IS NULL
                AND (
                    SELECT true FROM identity_links AS l
                    WHERE l.project_id = p_project_id AND l.kind = 'USER_ID' AND l.alias = named.user_id
                    LIMIT 1
                ) IS NULL
            LIMIT 1
        ) THEN
            RAISE EXCEPTION 'somebody was erased meanwhile' USING ERRCODE = 'serialization_failure';
        END IF;
    END IF;

    -- 4. What is stored already, and what is not to be: a revocation that is in the log by now counts.
    SELECT array_agg(input.key), array_agg(held.seq), array_agg(held.batch_token = p_batch_token)
    INTO v_held_keys, v_held_seqs, v_held_mine
    FROM unnest(p_keys) AS input (key)
    CROSS JOIN LATERAL (
        SELECT e.seq, e.batch_token FROM events AS e
        WHERE e.project_id = p_project_id AND e.key = input.key
        LIMIT 1
    ) AS held;
    v_unwanted := unwanted_keys(p_project_id, p_check_consent, p_keys, p_modules, p_user_ids, p_anonymous_ids);
    v_dropped_keys := v_unwanted.dropped_keys;
    v_erased_keys := v_unwanted.erased_keys;
    IF v_held_keys && v_effective_keys THEN
        RAISE EXCEPTION 'an event that changed a profile was stored meanwhile' USING ERRCODE = 'serialization_failure';
    END IF;
    IF v_dropped_keys && v_effective_keys OR v_erased_keys && v_effective_keys
        OR NOT v_foreseen_keys <@ (coalesce(v_dropped_keys, '{}') || coalesce(v_erased_keys, '{}'))
    THEN
        RAISE EXCEPTION 'what may be stored of a person changed meanwhile' USING ERRCODE = 'serialization_failure';
    END IF;
    IF v_held_keys IS NOT NULL AND (v_dropped_keys && v_held_keys OR v_erased_keys && v_held_keys) THEN
        -- What is stored is stored, whatever was said since: an append that is tried again gets its first answer.
        SELECT array_agg(u.key) INTO v_dropped_keys FROM unnest(v_dropped_keys) AS u (key)
        WHERE u.key <> ALL (v_held_keys);
        SELECT array_agg(u.key) INTO v_erased_keys FROM unnest(v_erased_keys) AS u (key)
        WHERE u.key <> ALL (v_held_keys);
    END IF;
    v_skipped_keys := coalesce(v_held_keys, '{}') || coalesce(v_dropped_keys, '{}') || coalesce(v_erased_keys, '{}');

    -- 5. Number the rest without gaps, store and count it, move the head.
    WITH inserted AS (
        INSERT INTO events (
            project_id, seq, batch_token, timestamp, received_at, key, module, event_type, user_id, anonymous_id,
            properties, context
        )
        SELECT p_project_id, v_head + row_number() OVER (ORDER BY input.ordinal), p_batch_token,
            coalesce(input.timestamp, v_now), v_now, input.key, input.module, input.event_type, input.user_id,
            input.anonymous_id, CAST(input.properties AS jsonb), CAST(input.context AS jsonb)
        FROM unnest(
            p_keys, p_modules, p_event_types, p_timestamps, p_user_ids, p_anonymous_ids, p_properties, p_contexts
        ) WITH ORDINALITY AS input (
            key, module, event_type, timestamp, user_id, anonymous_id, properties, context, ordinal
        )
        WHERE input.key <> ALL (v_skipped_keys)
        RETURNING seq, event_type, module, timestamp, user_id, anonymous_id
    ),
    linked AS (
        -- The first event that carries both of its ids says whose an anonymous id is.
        INSERT INTO identity_links (project_id, kind, alias, user_id, linked_seq)
        SELECT p_project_id, 'ANONYMOUS_ID', pair.anonymous_id, coalesce(
            (
                SELECT l.user_id FROM identity_links AS l
                WHERE l.project_id = p_project_id AND l.kind = 'USER_ID' AND l.alias = pair.user_id
                LIMIT 1
            ),
            pair.user_id
        ), pair.seq
        FROM (
            SELECT DISTINCT ON (anonymous_id) anonymous_id, user_id, seq FROM inserted
            WHERE user_id IS NOT NULL AND anonymous_id IS NOT NULL
            ORDER BY anonymous_id, seq
        ) AS pair
        WHERE (
            SELECT true FROM identity_links AS l
            WHERE l.project_id = p_project_id AND l.kind = 'ANONYMOUS_ID' AND l.alias = pair.anonymous_id
            LIMIT 1
        ) IS NULL
    ),
    counted AS (
        INSERT INTO event_types AS t (project_id, event_type, module, count, last_seen_at)
        SELECT p_project_id, event_type, module, count(*), (array_agg(timestamp ORDER BY seq DESC))[1]
        FROM inserted
        GROUP BY event_type, module
        ON CONFLICT (project_id, event_type, module)
        DO UPDATE SET count = t.count + excluded.count, last_seen_at = excluded.last_seen_at
    )
    SELECT count(*) INTO v_inserted FROM inserted;
    IF v_inserted <> cardinality(p_keys) - cardinality(v_skipped_keys) THEN
        RAISE EXCEPTION 'the log of project % would not be dense', p_project_id USING ERRCODE = 'assert_failure';
    END IF;
    IF v_inserted > 0 THEN
        UPDATE heads AS h SET head = v_head + v_inserted, changed_at = v_now
        WHERE h.project_id = p_project_id AND h.lane = c_events_lane AND h.head = v_head;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'the head of project % moved under its lock', p_project_id
                USING ERRCODE = 'assert_failure';
        END IF;
    END IF;

    RETURN QUERY SELECT v_epoch, v_now, v_head, v_held_keys, v_held_seqs, v_held_mine, v_dropped_keys, v_erased_keys;
END
$$;

-- How far each reader of a lane has come. Moved in the transaction that writes what follows from the items.
CREATE TABLE log_followers (
    project_id uuid NOT NULL REFERENCES projects,
    follower text NOT NULL,
    lane smallint NOT NULL CHECK (lane BETWEEN 1 AND 4),
    -- The seq of the last item that took effect.
    position bigint NOT NULL CHECK (position >= 0),
    -- Whoever writes the position must hold this; real time, not business time.
    lease_token uuid,
    lease_until timestamptz,
    PRIMARY KEY (project_id, follower, lane)
) WITH (fillfactor = 50);

CREATE TABLE providers (
    project_id uuid NOT NULL REFERENCES projects,
    provider_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('APNS', 'FCM', 'WEB_PUSH', 'SMTP', 'RESEND', 'TWILIO', 'OLLAMA')),
    settings jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(settings) = 'object'),
    sealed_secrets bytea,
    -- The last refusal that was about the account, not about one message.
    last_error text,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, provider_id),
    UNIQUE (project_id, kind)
);

-- The address of its callbacks names the provider only.
CREATE UNIQUE INDEX providers_by_id ON providers (provider_id);

CREATE TABLE push_settings (
    project_id uuid PRIMARY KEY REFERENCES projects,
    -- Hours of the recipient's day, 0 to 23; the end may be less than the start (over midnight).
    quiet_hours_start_local smallint CHECK (quiet_hours_start_local BETWEEN 0 AND 23),
    quiet_hours_end_local smallint CHECK (quiet_hours_end_local BETWEEN 0 AND 23),
    defer_in_quiet_hours boolean NOT NULL DEFAULT true,
    freq_cap_per_user_per_day integer CHECK (freq_cap_per_user_per_day > 0),
    freq_cap_per_user_per_hour integer CHECK (freq_cap_per_user_per_hour > 0)
);

CREATE TABLE push_tokens (
    project_id uuid NOT NULL REFERENCES projects,
    push_token_id uuid NOT NULL,
    platform text NOT NULL CHECK (platform IN ('IOS', 'ANDROID', 'WEB')),
    environment text NOT NULL CHECK (environment IN ('PRODUCTION', 'SANDBOX')),
    token text COLLATE "C" NOT NULL CHECK (octet_length(token) BETWEEN 1 AND 2048),
    -- {"p256dh": …, "auth": …} as the browser gave them.
    web_push_keys jsonb,
    user_id text COLLATE "C",
    timezone text,
    locale text,
    app_version text,
    active boolean NOT NULL DEFAULT true,
    invalidated_reason text,
    -- Counts the owners: a send that was planned for an earlier one is not made.
    owner_generation integer NOT NULL DEFAULT 1,
    registered_at timestamptz NOT NULL,
    last_used_at timestamptz,
    PRIMARY KEY (project_id, push_token_id),
    UNIQUE (project_id, token)
);

CREATE INDEX push_tokens_by_user ON push_tokens (project_id, user_id, push_token_id) WHERE user_id IS NOT NULL;
CREATE INDEX push_tokens_active ON push_tokens (project_id, user_id, registered_at)
WHERE active AND user_id IS NOT NULL;

-- Tokens of Live Activities: one to start those of a type on a device, one for each that runs.
CREATE TABLE live_activities (
    project_id uuid NOT NULL REFERENCES projects,
    live_activity_id uuid NOT NULL,
    push_token_id uuid NOT NULL,
    -- The app's name of the activity; NULL for a token that starts activities of a type.
    activity_id text COLLATE "C",
    attributes_type text COLLATE "C" NOT NULL,
    token text COLLATE "C",
    state text NOT NULL CHECK (state IN ('STARTABLE', 'STARTING', 'ACTIVE', 'ENDED', 'INVALIDATED')),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, live_activity_id)
);

CREATE UNIQUE INDEX live_activities_by_device
ON live_activities (project_id, push_token_id, attributes_type, activity_id) NULLS NOT DISTINCT;

-- Sends that count against the frequency caps unless nothing came of them: a message counts once per person and batch,
-- however many devices got it, so that each replay is a send of its own.
CREATE TABLE push_reservations (
    project_id uuid NOT NULL REFERENCES projects,
    delivery_id uuid NOT NULL,
    -- The delivery's when this was reserved: what made it, or the replay.
    batch_id uuid,
    user_id text COLLATE "C" NOT NULL,
    message_id uuid NOT NULL,
    at timestamptz NOT NULL
);

CREATE UNIQUE INDEX push_reservations_by_delivery
ON push_reservations (project_id, delivery_id, batch_id) NULLS NOT DISTINCT;
CREATE INDEX push_reservations_by_user ON push_reservations (project_id, user_id, at);

CREATE TABLE consents (
    project_id uuid NOT NULL REFERENCES projects,
    user_id text COLLATE "C" NOT NULL,
    purpose text NOT NULL CHECK (purpose IN ('EMAIL', 'PUSH', 'SMS', 'ANALYTICS', 'WORKFLOWS')),
    state text NOT NULL CHECK (state IN ('GRANTED', 'DENIED', 'REVOKED', 'UNKNOWN')),
    source text NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, user_id, purpose)
);

-- The few that must be looked for before anything of a project is stored without a look at its people.
-- By the project's text: so no other index can be taken for it, whatever the planner believes of a table that grows.
CREATE INDEX consents_against_analytics ON consents (CAST(project_id AS text))
WHERE purpose = 'ANALYTICS' AND state IN ('DENIED', 'REVOKED');

-- Addresses that nothing more is sent to, whoever they belong to.
CREATE TABLE suppressions (
    project_id uuid NOT NULL REFERENCES projects,
    channel text NOT NULL CHECK (channel IN ('EMAIL', 'SMS')),
    -- Lower case for email, E.164 for SMS.
    address text COLLATE "C" NOT NULL,
    reason text NOT NULL CHECK (reason IN ('UNSUBSCRIBED', 'BOUNCED')),
    delivery_id uuid,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, channel, address)
);

CREATE TABLE templates (
    project_id uuid NOT NULL REFERENCES projects,
    template_id uuid NOT NULL,
    name text COLLATE "C" NOT NULL CHECK (name <> ''),
    channel text NOT NULL CHECK (channel IN ('PUSH', 'EMAIL', 'SMS', 'WEBHOOK')),
    subject text,
    body_html text,
    body_text text,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, template_id),
    UNIQUE (project_id, name)
);

CREATE TABLE sender_domains (
    project_id uuid NOT NULL REFERENCES projects,
    sender_domain_id uuid NOT NULL,
    domain text COLLATE "C" NOT NULL CHECK (domain <> ''),
    status text NOT NULL CHECK (status IN ('PENDING', 'VERIFIED', 'FAILED')),
    dkim_selector text NOT NULL,
    -- The public key as it goes into DNS, base64 of its DER.
    dkim_public_key text NOT NULL,
    sealed_dkim_private_key bytea NOT NULL,
    -- Which of the records were found when they were last looked for: DKIM, SPF, DMARC.
    verified_records text[] NOT NULL DEFAULT '{}',
    verified_at timestamptz,
    probation_until timestamptz,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, sender_domain_id),
    UNIQUE (project_id, domain)
);

-- How many were sent in each minute or hour, for limits that are kept by counting.
CREATE TABLE send_counters (
    project_id uuid NOT NULL REFERENCES projects,
    -- What is counted, e.g. `email` or `email:example.com`.
    scope text COLLATE "C" NOT NULL,
    window_start timestamptz NOT NULL,
    count integer NOT NULL CHECK (count >= 0),
    PRIMARY KEY (project_id, scope, window_start)
) WITH (fillfactor = 50);

CREATE TABLE webhook_endpoints (
    project_id uuid NOT NULL REFERENCES projects,
    endpoint_id uuid NOT NULL,
    url text NOT NULL CHECK (url <> ''),
    description text,
    -- Names and wildcards of event types.
    events text[] NOT NULL,
    enabled boolean NOT NULL DEFAULT true,
    disabled_reason text,
    signature_scheme text NOT NULL CHECK (signature_scheme IN ('HEX', 'SHA256_PREFIXED', 'STRIPE')),
    -- Seconds before attempt 2, 3, …
    retry_schedule integer[] NOT NULL,
    allow_plain_http boolean NOT NULL DEFAULT false,
    -- Where the log stood when it was made or last switched on: what happened before is not sent to it.
    after_seq bigint NOT NULL DEFAULT 0 CHECK (after_seq >= 0),
    -- When the first attempt failed since the last that succeeded.
    failing_since timestamptz,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, endpoint_id)
);

CREATE TABLE webhook_secrets (
    project_id uuid NOT NULL REFERENCES projects,
    endpoint_id uuid NOT NULL,
    secret_id uuid NOT NULL,
    sealed_secret bytea NOT NULL,
    -- What may be shown: its last characters.
    hint text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    PRIMARY KEY (project_id, endpoint_id, secret_id),
    FOREIGN KEY (project_id, endpoint_id) REFERENCES webhook_endpoints ON DELETE CASCADE
);

CREATE TABLE inbound_endpoints (
    project_id uuid NOT NULL REFERENCES projects,
    endpoint_id uuid NOT NULL,
    name text NOT NULL CHECK (name <> ''),
    verifier text NOT NULL CHECK (verifier IN ('STRIPE', 'GITHUB', 'SLACK', 'STANDARD_WEBHOOKS', 'HMAC_SHA256')),
    sealed_secret bytea NOT NULL,
    event_type text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, endpoint_id)
);

-- Its address names the endpoint only.
CREATE UNIQUE INDEX inbound_endpoints_by_id ON inbound_endpoints (endpoint_id);

-- One send or replay that was asked for. The idempotency key is stored once, with a hash of what was asked.
CREATE TABLE send_batches (
    project_id uuid NOT NULL REFERENCES projects,
    batch_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('PUSH', 'EMAIL', 'SMS', 'WEBHOOK', 'REPLAY')),
    idempotency_key text COLLATE "C",
    request_hash bytea,
    -- Of a replay that is not finished: its filter, and how far it has come.
    progress jsonb,
    -- Its deliveries as of acceptance, for the same answer to the same key.
    queued integer NOT NULL DEFAULT 0,
    scheduled integer NOT NULL DEFAULT 0,
    suppressed integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    -- When a send to an audience that is in progress is to be gone on with, in business time. NULL of anything else.
    continue_at timestamptz,
    PRIMARY KEY (project_id, batch_id)
);

CREATE UNIQUE INDEX send_batches_by_key ON send_batches (project_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX send_batches_in_progress ON send_batches (project_id, batch_id) WHERE progress IS NOT NULL;
CREATE INDEX send_batches_continuing ON send_batches (continue_at, project_id, batch_id) WHERE continue_at IS NOT NULL;

CREATE TABLE deliveries (
    project_id uuid NOT NULL REFERENCES projects,
    -- UUIDv7: lists are sorted by it.
    delivery_id uuid NOT NULL,
    batch_id uuid,
    channel text NOT NULL CHECK (channel IN ('PUSH', 'EMAIL', 'SMS', 'WEBHOOK')),
    status text NOT NULL CHECK (status IN (
        'QUEUED', 'SCHEDULED', 'SENDING', 'RETRYING', 'SENT', 'DELIVERED', 'FAILED', 'SUPPRESSED', 'CANCELLED',
        'DEAD_LETTERED', 'UNCERTAIN'
    )),
    suppressed_reason text,
    user_id text COLLATE "C",
    workflow_id uuid,
    workflow_run_id uuid,
    -- The event it is about, or that caused it.
    event_seq bigint,
    event_type text COLLATE "C",
    endpoint_id uuid,
    push_token_id uuid,
    -- The token's owner_generation when this was made.
    owner_generation integer,
    -- An email address or an E.164 number.
    recipient text COLLATE "C",
    -- What shares one concurrency limit and one circuit breaker, see engine/dispatch/values.py.
    dispatch_key text COLLATE "C" NOT NULL,
    -- What was asked for; its shape is the channel's, see engine/dispatch/values.py.
    content jsonb NOT NULL,
    -- What was sent, once it is resolved.
    payload jsonb,
    variant text,
    locale text,
    error_code text COLLATE "C",
    error_message text,
    error_permanent boolean,
    error_hint text,
    attempt_count integer NOT NULL DEFAULT 0,
    -- Seconds before attempt 2, 3, …; attempts end with it.
    retry_schedule integer[] NOT NULL,
    -- Attempts up to this one belong to an earlier round: a replay starts the schedule again.
    schedule_offset integer NOT NULL DEFAULT 0,
    provider_message_id text COLLATE "C",
    -- How many derived events lie between it and what a client sent.
    depth smallint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    scheduled_for timestamptz,
    -- Set while there is something to do: QUEUED, SCHEDULED, RETRYING. Business time.
    next_attempt_at timestamptz,
    sent_at timestamptz,
    delivered_at timestamptz,
    opened_at timestamptz,
    clicked_at timestamptz,
    finished_at timestamptz,
    -- Set while SENDING. Real time.
    lease_token uuid,
    lease_until timestamptz,
    -- Whether the receiver drops what it has already: an attempt whose worker died is made again, or is UNCERTAIN.
    repeatable boolean NOT NULL DEFAULT false,
    -- Which step of its run made it.
    workflow_step_number integer,
    PRIMARY KEY (project_id, delivery_id),
    CHECK ((next_attempt_at IS NOT NULL) = (status IN ('QUEUED', 'SCHEDULED', 'RETRYING'))),
    CHECK ((lease_token IS NOT NULL) = (status = 'SENDING')),
    CHECK ((lease_until IS NOT NULL) = (status = 'SENDING'))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX deliveries_due ON deliveries (project_id, dispatch_key, next_attempt_at, delivery_id)
WHERE next_attempt_at IS NOT NULL;
CREATE INDEX deliveries_leased ON deliveries (lease_until, project_id) WHERE lease_until IS NOT NULL;
CREATE INDEX deliveries_by_batch ON deliveries (project_id, batch_id, delivery_id) WHERE batch_id IS NOT NULL;
CREATE INDEX deliveries_by_user ON deliveries (project_id, user_id, delivery_id) WHERE user_id IS NOT NULL;
CREATE INDEX deliveries_by_time ON deliveries (project_id, created_at);
CREATE INDEX deliveries_by_endpoint ON deliveries (project_id, endpoint_id, delivery_id) WHERE endpoint_id IS NOT NULL;
CREATE INDEX deliveries_by_run ON deliveries (project_id, workflow_run_id, delivery_id)
WHERE workflow_run_id IS NOT NULL;
CREATE INDEX deliveries_failed ON deliveries (project_id, delivery_id)
WHERE status IN ('FAILED', 'DEAD_LETTERED', 'UNCERTAIN');
CREATE INDEX deliveries_by_provider_message ON deliveries (project_id, provider_message_id)
WHERE provider_message_id IS NOT NULL;
-- Webhooks: what is for a person is found by the person.
CREATE INDEX deliveries_by_event ON deliveries (project_id, event_seq)
WHERE event_seq IS NOT NULL AND user_id IS NULL;
CREATE INDEX deliveries_by_address ON deliveries (project_id, lower(recipient))
WHERE recipient IS NOT NULL AND user_id IS NULL;

CREATE TABLE delivery_attempts (
    project_id uuid NOT NULL,
    delivery_id uuid NOT NULL,
    -- 1, 2, 3 …
    number integer NOT NULL CHECK (number > 0),
    at timestamptz NOT NULL,
    duration_ms integer NOT NULL,
    status_code integer,
    -- At most 4 KiB.
    response_body text,
    signature_header text,
    error_code text COLLATE "C",
    error_message text,
    error_permanent boolean,
    error_hint text,
    PRIMARY KEY (project_id, delivery_id, number)
);

-- The deliveries lane of the log. What filters ask for is copied, so that a page needs no join and a row says what it
-- said when it was written.
CREATE TABLE delivery_transitions (
    project_id uuid NOT NULL,
    -- 1, 2, 3 … without gaps within the project, in commit order.
    seq bigint NOT NULL,
    delivery_id uuid NOT NULL,
    -- NULL when the delivery was made.
    from_status text,
    to_status text NOT NULL,
    at timestamptz NOT NULL,
    -- The attempt that led to it.
    attempt_number integer,
    batch_id uuid,
    channel text NOT NULL,
    user_id text COLLATE "C",
    workflow_id uuid,
    workflow_run_id uuid,
    endpoint_id uuid,
    event_type text COLLATE "C",
    error_code text COLLATE "C",
    created_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, seq)
) PARTITION BY HASH (project_id);

CREATE TABLE delivery_transitions_0 PARTITION OF delivery_transitions FOR VALUES WITH (MODULUS 8, REMAINDER 0);
CREATE TABLE delivery_transitions_1 PARTITION OF delivery_transitions FOR VALUES WITH (MODULUS 8, REMAINDER 1);
CREATE TABLE delivery_transitions_2 PARTITION OF delivery_transitions FOR VALUES WITH (MODULUS 8, REMAINDER 2);
CREATE TABLE delivery_transitions_3 PARTITION OF delivery_transitions FOR VALUES WITH (MODULUS 8, REMAINDER 3);
CREATE TABLE delivery_transitions_4 PARTITION OF delivery_transitions FOR VALUES WITH (MODULUS 8, REMAINDER 4);
CREATE TABLE delivery_transitions_5 PARTITION OF delivery_transitions FOR VALUES WITH (MODULUS 8, REMAINDER 5);
CREATE TABLE delivery_transitions_6 PARTITION OF delivery_transitions FOR VALUES WITH (MODULUS 8, REMAINDER 6);
CREATE TABLE delivery_transitions_7 PARTITION OF delivery_transitions FOR VALUES WITH (MODULUS 8, REMAINDER 7);

CREATE INDEX delivery_transitions_by_delivery ON delivery_transitions (project_id, delivery_id, seq);
CREATE INDEX delivery_transitions_by_user ON delivery_transitions (project_id, user_id, seq) WHERE user_id IS NOT NULL;

-- The only way into the deliveries lane: numbers the rows without gaps and moves the head, in the caller's transaction.
-- The caller holds every other lock already: after a head only inserts.
CREATE FUNCTION append_delivery_transitions(
    p_project_id uuid,
    -- One array per column, one element per transition, in order.
    p_delivery_ids uuid[],
    p_from_statuses text[],
    p_to_statuses text[],
    p_attempt_numbers integer[],
    p_batch_ids uuid[],
    p_channels text[],
    p_user_ids text[],
    p_workflow_ids uuid[],
    p_workflow_run_ids uuid[],
    p_endpoint_ids uuid[],
    p_event_types text[],
    p_error_codes text[],
    p_created_ats timestamptz[],
    -- Business time of all of them.
    p_at timestamptz
) RETURNS TABLE (
    epoch integer,
    -- The transitions got the seqs that follow it, in the order given.
    previous_head bigint
)
LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
    c_deliveries_lane CONSTANT smallint := 2;
    v_epoch integer;
    v_head bigint;
    v_now timestamptz;
BEGIN
    SELECT h.epoch, h.head, greatest(clock_timestamp(), h.changed_at)
    INTO v_epoch, v_head, v_now
    FROM heads AS h
    WHERE h.project_id = p_project_id AND h.lane = c_deliveries_lane
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'project % has no deliveries lane', p_project_id USING ERRCODE = 'foreign_key_violation';
    END IF;

    INSERT INTO delivery_transitions (
        project_id, seq, delivery_id, from_status, to_status, at, attempt_number, batch_id, channel, user_id,
        workflow_id, workflow_run_id, endpoint_id, event_type, error_code, created_at
    )
    SELECT p_project_id, v_head + input.ordinal, input.delivery_id, input.from_status, input.to_status, p_at,
        input.attempt_number, input.batch_id, input.channel, input.user_id, input.workflow_id, input.workflow_run_id,
        input.endpoint_id, input.event_type, input.error_code, input.created_at
    FROM unnest(
        p_delivery_ids, p_from_statuses, p_to_statuses, p_attempt_numbers, p_batch_ids, p_channels, p_user_ids,
        p_workflow_ids, p_workflow_run_ids, p_endpoint_ids, p_event_types, p_error_codes, p_created_ats
    ) WITH ORDINALITY AS input (
        delivery_id, from_status, to_status, attempt_number, batch_id, channel, user_id, workflow_id, workflow_run_id,
        endpoint_id, event_type, error_code, created_at, ordinal
    );

    UPDATE heads AS h SET head = v_head + cardinality(p_delivery_ids), changed_at = v_now
    WHERE h.project_id = p_project_id AND h.lane = c_deliveries_lane AND h.head = v_head;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the head of project % moved under its lock', p_project_id USING ERRCODE = 'assert_failure';
    END IF;

    RETURN QUERY SELECT v_epoch, v_head;
END
$$;

-- Groups of people that conditions describe. Who belongs to one is found when it is asked for.
CREATE TABLE audiences (
    project_id uuid NOT NULL REFERENCES projects,
    audience_id uuid NOT NULL,
    name text COLLATE "C" NOT NULL CHECK (name <> ''),
    -- A list of conditions, as clients write them: text that stays as it is.
    conditions json NOT NULL CHECK (json_typeof(conditions) = 'array'),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    -- Deleted: in no list, but what was said of it still has a name.
    deleted_at timestamptz,
    -- Raised when what it asks for changes, so that whoever keeps audiences in memory sees that they are old.
    revision integer NOT NULL DEFAULT 1 CHECK (revision > 0),
    -- Whether everybody is still to be looked at for it, since it was saved; of a deleted one, to be forgotten.
    is_building boolean NOT NULL DEFAULT true,
    -- The user id up to which that is done.
    built_up_to text COLLATE "C",
    PRIMARY KEY (project_id, audience_id)
);

CREATE UNIQUE INDEX audiences_by_name ON audiences (project_id, name) WHERE deleted_at IS NULL;
CREATE INDEX audiences_building ON audiences (project_id, audience_id) WHERE is_building;

-- Raised by every change of what starts runs, so that whoever keeps the triggers in memory sees that they are old.
CREATE TABLE workflow_generations (
    project_id uuid PRIMARY KEY REFERENCES projects,
    generation bigint NOT NULL CHECK (generation > 0)
) WITH (fillfactor = 50);

CREATE TABLE workflows (
    project_id uuid NOT NULL REFERENCES projects,
    -- UUIDv7: lists are sorted by it.
    workflow_id uuid NOT NULL,
    name text NOT NULL CHECK (name <> ''),
    is_active boolean NOT NULL DEFAULT false,
    is_paused boolean NOT NULL DEFAULT false,
    -- The newest of its versions: new runs take it.
    version integer NOT NULL CHECK (version > 0),
    -- Where the log stood when it was last switched on: what happened before starts nothing.
    after_seq bigint NOT NULL DEFAULT 0 CHECK (after_seq >= 0),
    -- What a worker still has to do to its runs: let those go on that were held while it was paused, or cancel all.
    pending_change text CHECK (pending_change IN ('RELEASE', 'CANCEL')),
    -- When its schedule is due next, in business time. NULL without one, and while it is off.
    next_due_at timestamptz,
    -- Of a schedule that is being carried out: when it was due, and the last member for whom it was.
    enrolling_due_at timestamptz,
    enrolled_up_to text COLLATE "C",
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    -- Deleted: in no list, but its runs still have a name.
    deleted_at timestamptz,
    PRIMARY KEY (project_id, workflow_id)
) WITH (fillfactor = 70);

CREATE UNIQUE INDEX workflows_by_name ON workflows (project_id, name) WHERE deleted_at IS NULL;
CREATE INDEX workflows_due ON workflows (next_due_at, project_id) WHERE next_due_at IS NOT NULL;
CREATE INDEX workflows_changing ON workflows (project_id, workflow_id) WHERE pending_change IS NOT NULL;

-- What a workflow was, each time that it was saved. Never changed: runs stay on the version they started with.
CREATE TABLE workflow_versions (
    project_id uuid NOT NULL,
    workflow_id uuid NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    -- Text that stays as it is: the order of members and the digits of numbers are part of what was saved.
    definition json NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, workflow_id, version),
    FOREIGN KEY (project_id, workflow_id) REFERENCES workflows
);

-- Runs of a workflow that failed one after another; no row after one that did not.
CREATE TABLE workflow_failures (
    project_id uuid NOT NULL,
    workflow_id uuid NOT NULL,
    consecutive integer NOT NULL CHECK (consecutive > 0),
    PRIMARY KEY (project_id, workflow_id),
    FOREIGN KEY (project_id, workflow_id) REFERENCES workflows
);

-- What the webhooks of a project's steps are signed with: one without an end, and the one that it took the place of.
CREATE TABLE workflow_secrets (
    project_id uuid NOT NULL REFERENCES projects,
    secret_id uuid NOT NULL,
    sealed_secret bytea NOT NULL,
    created_at timestamptz NOT NULL,
    -- Until when it signs, in business time. NULL: until another takes its place.
    expires_at timestamptz,
    PRIMARY KEY (project_id, secret_id)
);

-- However many make the first at once, there is one.
CREATE UNIQUE INDEX workflow_secrets_newest ON workflow_secrets (project_id) WHERE expires_at IS NULL;

CREATE TABLE workflow_runs (
    project_id uuid NOT NULL,
    -- UUIDv7: lists are sorted by it.
    run_id uuid NOT NULL,
    workflow_id uuid NOT NULL,
    version integer NOT NULL,
    status text NOT NULL CHECK (status IN ('QUEUED', 'RUNNING', 'PAUSED', 'COMPLETED', 'FAILED', 'CANCELLED')),
    user_id text COLLATE "C",
    -- The event that started it; NULL when a schedule did.
    event_seq bigint,
    -- How many derived events lie between it and what a client sent.
    depth smallint NOT NULL DEFAULT 0,
    -- The index of the step that is due next or in progress; -1 at the end.
    step integer NOT NULL,
    -- When that step is due, in business time. NULL while deliveries or a model are waited for, and once it is over.
    next_step_at timestamptz,
    -- When a worker has to look at it, in business time: when its step is due, or at once when what it waits for has
    -- come. NULL while there is nothing to look at: waiting for others, held, paused, over.
    claim_at timestamptz,
    -- What fell due, or was triggered, while its workflow was paused; goes on when that is resumed.
    is_held boolean NOT NULL DEFAULT false,
    vars jsonb NOT NULL DEFAULT '{}',
    steps_made integer NOT NULL DEFAULT 0,
    -- The step in progress, as in workflow_run_steps.
    open_trace jsonb,
    -- How often that step has asked a model.
    asked integer NOT NULL DEFAULT 0,
    -- Set while a worker asks a model. Real time.
    lease_token uuid,
    lease_until timestamptz,
    error text,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    PRIMARY KEY (project_id, run_id),
    FOREIGN KEY (project_id, workflow_id, version) REFERENCES workflow_versions,
    CHECK ((lease_token IS NULL) = (lease_until IS NULL)),
    CHECK (claim_at IS NULL OR (status = 'RUNNING' AND NOT is_held))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX workflow_runs_due ON workflow_runs (project_id, claim_at, run_id) WHERE claim_at IS NOT NULL;
CREATE INDEX workflow_runs_leased ON workflow_runs (lease_until, project_id) WHERE lease_until IS NOT NULL;
CREATE INDEX workflow_runs_held ON workflow_runs (project_id, workflow_id, run_id) WHERE is_held;
CREATE INDEX workflow_runs_by_workflow ON workflow_runs (project_id, workflow_id, run_id);
CREATE INDEX workflow_runs_by_user ON workflow_runs (project_id, user_id, workflow_id, run_id)
WHERE user_id IS NOT NULL;
CREATE INDEX workflow_runs_going_on ON workflow_runs (project_id, workflow_id, run_id)
WHERE status IN ('QUEUED', 'RUNNING', 'PAUSED');
CREATE INDEX workflow_runs_by_status ON workflow_runs (project_id, status, run_id)
WHERE status IN ('QUEUED', 'PAUSED', 'FAILED', 'CANCELLED');
CREATE INDEX workflow_runs_by_event ON workflow_runs (project_id, event_seq)
WHERE event_seq IS NOT NULL AND user_id IS NULL;

-- The trace: what each step of a run did, as it stands now.
CREATE TABLE workflow_run_steps (
    project_id uuid NOT NULL,
    run_id uuid NOT NULL,
    -- 1, 2, 3 … within the run.
    number integer NOT NULL CHECK (number > 0),
    workflow_id uuid NOT NULL,
    -- Its index in the definition.
    step integer NOT NULL,
    label text NOT NULL,
    type text NOT NULL,
    -- NULL while it is in progress.
    outcome text,
    detail text,
    -- Its configuration after interpolation, secrets masked.
    input jsonb NOT NULL,
    output jsonb,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    PRIMARY KEY (project_id, run_id, number)
) WITH (fillfactor = 80);

CREATE INDEX workflow_run_steps_by_workflow ON workflow_run_steps (project_id, workflow_id, started_at)
INCLUDE (label, outcome);

-- The runs lane of the log: every change of a run's status, and every step that began or ended.
CREATE TABLE workflow_run_updates (
    project_id uuid NOT NULL,
    -- 1, 2, 3 … without gaps within the project, in commit order.
    seq bigint NOT NULL,
    run_id uuid NOT NULL,
    workflow_id uuid NOT NULL,
    user_id text COLLATE "C",
    -- The run's from then on.
    status text NOT NULL,
    -- The step that began or ended, as it was then. NULL when only the status changed.
    step jsonb,
    at timestamptz NOT NULL,
    -- When the run was started.
    started_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, seq)
) PARTITION BY HASH (project_id);

CREATE TABLE workflow_run_updates_0 PARTITION OF workflow_run_updates FOR VALUES WITH (MODULUS 8, REMAINDER 0);
CREATE TABLE workflow_run_updates_1 PARTITION OF workflow_run_updates FOR VALUES WITH (MODULUS 8, REMAINDER 1);
CREATE TABLE workflow_run_updates_2 PARTITION OF workflow_run_updates FOR VALUES WITH (MODULUS 8, REMAINDER 2);
CREATE TABLE workflow_run_updates_3 PARTITION OF workflow_run_updates FOR VALUES WITH (MODULUS 8, REMAINDER 3);
CREATE TABLE workflow_run_updates_4 PARTITION OF workflow_run_updates FOR VALUES WITH (MODULUS 8, REMAINDER 4);
CREATE TABLE workflow_run_updates_5 PARTITION OF workflow_run_updates FOR VALUES WITH (MODULUS 8, REMAINDER 5);
CREATE TABLE workflow_run_updates_6 PARTITION OF workflow_run_updates FOR VALUES WITH (MODULUS 8, REMAINDER 6);
CREATE TABLE workflow_run_updates_7 PARTITION OF workflow_run_updates FOR VALUES WITH (MODULUS 8, REMAINDER 7);

CREATE INDEX workflow_run_updates_by_run ON workflow_run_updates (project_id, run_id, seq);
CREATE INDEX workflow_run_updates_by_user ON workflow_run_updates (project_id, user_id, seq) WHERE user_id IS NOT NULL;

-- The only way into the runs lane: numbers the rows without gaps and moves the head, in the caller's transaction.
-- The caller holds every other lock already: after a head only inserts.
CREATE FUNCTION append_workflow_run_updates(
    p_project_id uuid,
    -- One array per column, one element per update, in order.
    p_run_ids uuid[],
    p_workflow_ids uuid[],
    p_user_ids text[],
    p_statuses text[],
    p_steps text[],
    p_started_ats timestamptz[],
    -- Business time of all of them.
    p_at timestamptz
) RETURNS TABLE (
    epoch integer,
    -- The updates got the seqs that follow it, in the order given.
    previous_head bigint
)
LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
    c_runs_lane CONSTANT smallint := 3;
    v_epoch integer;
    v_head bigint;
    v_now timestamptz;
BEGIN
    SELECT h.epoch, h.head, greatest(clock_timestamp(), h.changed_at)
    INTO v_epoch, v_head, v_now
    FROM heads AS h
    WHERE h.project_id = p_project_id AND h.lane = c_runs_lane
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'project % has no runs lane', p_project_id USING ERRCODE = 'foreign_key_violation';
    END IF;

    INSERT INTO workflow_run_updates (
        project_id, seq, run_id, workflow_id, user_id, status, step, at, started_at
    )
    SELECT p_project_id, v_head + input.ordinal, input.run_id, input.workflow_id, input.user_id, input.status,
        CAST(input.step AS jsonb), p_at, input.started_at
    FROM unnest(p_run_ids, p_workflow_ids, p_user_ids, p_statuses, p_steps, p_started_ats)
        WITH ORDINALITY AS input (run_id, workflow_id, user_id, status, step, started_at, ordinal);

    UPDATE heads AS h SET head = v_head + cardinality(p_run_ids), changed_at = v_now
    WHERE h.project_id = p_project_id AND h.lane = c_runs_lane AND h.head = v_head;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the head of project % moved under its lock', p_project_id USING ERRCODE = 'assert_failure';
    END IF;

    RETURN QUERY SELECT v_epoch, v_head;
END
$$;

CREATE TYPE pgqueuer_status AS ENUM ('queued', 'picked', 'successful', 'exception', 'canceled', 'deleted', 'failed');

CREATE TABLE pgqueuer (
    id bigserial NOT NULL PRIMARY KEY,
    priority integer NOT NULL,
    queue_manager_id uuid,
    created timestamp with time zone NOT NULL DEFAULT now(),
    updated timestamp with time zone NOT NULL DEFAULT now(),
    heartbeat timestamp with time zone NOT NULL DEFAULT now(),
    execute_after timestamp with time zone NOT NULL DEFAULT now(),
    status pgqueuer_status NOT NULL,
    entrypoint text NOT NULL,
    dedupe_key text,
    payload bytea,
    headers jsonb,
    attempts integer NOT NULL DEFAULT 0,
    slot bigint
);

CREATE TABLE pgqueuer_log (
    id bigint GENERATED BY DEFAULT AS IDENTITY NOT NULL PRIMARY KEY,
    created timestamp with time zone NOT NULL DEFAULT now(),
    job_id bigint NOT NULL,
    status pgqueuer_status NOT NULL,
    priority integer NOT NULL,
    entrypoint text NOT NULL,
    traceback jsonb,
    aggregated boolean DEFAULT false
);

CREATE TABLE pgqueuer_schedules (
    id bigserial NOT NULL PRIMARY KEY,
    expression text NOT NULL,
    entrypoint text NOT NULL,
    heartbeat timestamp with time zone NOT NULL DEFAULT now(),
    created timestamp with time zone NOT NULL DEFAULT now(),
    updated timestamp with time zone NOT NULL DEFAULT now(),
    next_run timestamp with time zone NOT NULL DEFAULT now(),
    last_run timestamp with time zone,
    status pgqueuer_status DEFAULT 'queued'::pgqueuer_status,
    UNIQUE (expression, entrypoint)
);

CREATE TABLE pgqueuer_statistics (
    id bigserial NOT NULL PRIMARY KEY,
    created timestamp with time zone NOT NULL DEFAULT date_trunc('sec'::text, now()),
    count bigint NOT NULL,
    priority integer NOT NULL,
    status pgqueuer_status NOT NULL,
    entrypoint text NOT NULL
);

CREATE INDEX pgqueuer_ep_ea_idx ON pgqueuer USING btree (entrypoint, execute_after) WHERE (status = 'queued'::pgqueuer_status);

CREATE INDEX pgqueuer_ep_prio_id_idx ON pgqueuer USING btree (entrypoint, priority DESC, id) WHERE (status = 'queued'::pgqueuer_status);

CREATE INDEX pgqueuer_log_created ON pgqueuer_log USING btree (created);

CREATE INDEX pgqueuer_log_job_id_status ON pgqueuer_log USING btree (job_id, created DESC);

CREATE INDEX pgqueuer_log_not_aggregated ON pgqueuer_log USING btree ((1)) WHERE (NOT aggregated);

CREATE INDEX pgqueuer_log_status ON pgqueuer_log USING btree (status);

CREATE INDEX pgqueuer_picked_heartbeat_idx ON pgqueuer USING btree (heartbeat) WHERE (status = 'picked'::pgqueuer_status);

CREATE UNIQUE INDEX pgqueuer_picked_slot_idx ON pgqueuer USING btree (entrypoint, slot) WHERE ((status = 'picked'::pgqueuer_status) AND (slot IS NOT NULL));

CREATE INDEX pgqueuer_priority_id_id1_idx ON pgqueuer USING btree (priority, id DESC) INCLUDE (id) WHERE (status = 'queued'::pgqueuer_status);

CREATE INDEX pgqueuer_queue_manager_id_idx ON pgqueuer USING btree (queue_manager_id) WHERE (queue_manager_id IS NOT NULL);

CREATE UNIQUE INDEX pgqueuer_statistics_unique_count ON pgqueuer_statistics USING btree (priority, date_trunc('sec'::text, timezone('UTC'::text, created)), status, entrypoint);

CREATE UNIQUE INDEX pgqueuer_unique_dedupe_key ON pgqueuer USING btree (dedupe_key) WHERE ((status = ANY (ARRAY['queued'::pgqueuer_status, 'picked'::pgqueuer_status])) AND (dedupe_key IS NOT NULL));

CREATE INDEX pgqueuer_updated_id_id1_idx ON pgqueuer USING btree (updated, id DESC) INCLUDE (id) WHERE (status = 'picked'::pgqueuer_status);

-- The time zones that the server knows: asking itself for their names takes it 30 ms each time.
CREATE TABLE time_zones (
    name text COLLATE "C" PRIMARY KEY
);

INSERT INTO time_zones (name) SELECT name FROM pg_timezone_names;

-- Who belonged when it was last looked at. Written under the lock of the project's follower `audiences` only.
CREATE TABLE audience_members (
    project_id uuid NOT NULL,
    audience_id uuid NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    entered_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, audience_id, user_id)
);

CREATE INDEX audience_members_by_user ON audience_members (project_id, user_id);

-- When a person has to be looked at again although nothing happens: never later than the passing of time alone changes
-- the answer of any audience. Business time. No row where it cannot. One for all audiences, so that an event of somebody
-- who is to be looked at anyway writes none.
CREATE TABLE audience_rechecks (
    project_id uuid NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    recheck_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, user_id)
) WITH (fillfactor = 80);

CREATE INDEX audience_rechecks_due ON audience_rechecks (recheck_at, project_id);
CREATE INDEX audience_rechecks_of_project ON audience_rechecks (project_id, recheck_at);

-- The audiences lane of the log: whoever came to belong or ceased to.
CREATE TABLE audience_changes (
    project_id uuid NOT NULL,
    -- 1, 2, 3 … without gaps within the project, in commit order.
    seq bigint NOT NULL,
    audience_id uuid NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    entered boolean NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (project_id, seq)
) PARTITION BY HASH (project_id);

CREATE TABLE audience_changes_0 PARTITION OF audience_changes FOR VALUES WITH (MODULUS 8, REMAINDER 0);
CREATE TABLE audience_changes_1 PARTITION OF audience_changes FOR VALUES WITH (MODULUS 8, REMAINDER 1);
CREATE TABLE audience_changes_2 PARTITION OF audience_changes FOR VALUES WITH (MODULUS 8, REMAINDER 2);
CREATE TABLE audience_changes_3 PARTITION OF audience_changes FOR VALUES WITH (MODULUS 8, REMAINDER 3);
CREATE TABLE audience_changes_4 PARTITION OF audience_changes FOR VALUES WITH (MODULUS 8, REMAINDER 4);
CREATE TABLE audience_changes_5 PARTITION OF audience_changes FOR VALUES WITH (MODULUS 8, REMAINDER 5);
CREATE TABLE audience_changes_6 PARTITION OF audience_changes FOR VALUES WITH (MODULUS 8, REMAINDER 6);
CREATE TABLE audience_changes_7 PARTITION OF audience_changes FOR VALUES WITH (MODULUS 8, REMAINDER 7);

CREATE INDEX audience_changes_by_audience ON audience_changes (project_id, audience_id, seq);
CREATE INDEX audience_changes_by_user ON audience_changes (project_id, user_id, seq);

-- The only way into the audiences lane: numbers the rows without gaps and moves the head, in the caller's transaction.
-- The caller holds every other lock already: after a head only inserts.
CREATE FUNCTION append_audience_changes(
    p_project_id uuid,
    -- One array per column, one element per change, in order.
    p_audience_ids uuid[],
    p_user_ids text[],
    p_entered boolean[],
    -- Business time of all of them.
    p_at timestamptz
) RETURNS TABLE (
    epoch integer,
    -- The changes got the seqs that follow it, in the order given.
    previous_head bigint
)
LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
    c_audiences_lane CONSTANT smallint := 4;
    v_epoch integer;
    v_head bigint;
    v_now timestamptz;
BEGIN
    SELECT h.epoch, h.head, greatest(clock_timestamp(), h.changed_at)
    INTO v_epoch, v_head, v_now
    FROM heads AS h
    WHERE h.project_id = p_project_id AND h.lane = c_audiences_lane
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'project % has no audiences lane', p_project_id USING ERRCODE = 'foreign_key_violation';
    END IF;

    INSERT INTO audience_changes (project_id, seq, audience_id, user_id, entered, at)
    SELECT p_project_id, v_head + input.ordinal, input.audience_id, input.user_id, input.entered, p_at
    FROM unnest(p_audience_ids, p_user_ids, p_entered)
        WITH ORDINALITY AS input (audience_id, user_id, entered, ordinal);

    UPDATE heads AS h SET head = v_head + cardinality(p_audience_ids), changed_at = v_now
    WHERE h.project_id = p_project_id AND h.lane = c_audiences_lane AND h.head = v_head;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the head of project % moved under its lock', p_project_id USING ERRCODE = 'assert_failure';
    END IF;

    RETURN QUERY SELECT v_epoch, v_head;
END
$$;

-- Questions about people that somebody keeps: a funnel, a retention or a trend, answered anew when it is looked at.
CREATE TABLE insights (
    project_id uuid NOT NULL REFERENCES projects,
    insight_id uuid NOT NULL,
    name text COLLATE "C" NOT NULL CHECK (name <> ''),
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('FUNNEL', 'RETENTION', 'TREND')),
    -- The question as its client wrote it: text that stays as it is.
    input json NOT NULL CHECK (json_typeof(input) = 'object'),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, insight_id)
);

CREATE UNIQUE INDEX insights_by_name ON insights (project_id, name);

-- Insights beside one another. Locked after the insights that it shows.
CREATE TABLE boards (
    project_id uuid NOT NULL REFERENCES projects,
    board_id uuid NOT NULL,
    name text COLLATE "C" NOT NULL CHECK (name <> ''),
    -- In the order in which they are shown; an insight that is deleted leaves all boards.
    insight_ids uuid[] NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, board_id)
);

CREATE UNIQUE INDEX boards_by_name ON boards (project_id, name);

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

CREATE INDEX erased_keys_by_seq ON erased_keys (project_id, seq);

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
