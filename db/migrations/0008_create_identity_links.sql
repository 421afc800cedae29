-- What:  whom anonymous ids, and users that were taken over, stand for by now; append_events keeps it.
-- Why:   questions about people count a person once, whatever ids their events came with.
-- Locks: none that matter: a new table, a function. The log is read once from end to end, for what is in it already.
-- When:  before the release that needs it. An append that runs meanwhile with the function as it was makes no link; the
--        next event that carries both ids does.

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

CREATE OR REPLACE FUNCTION append_events(
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
    p_profile_ids uuid[]
) RETURNS TABLE (
    epoch integer,
    received_at timestamptz,
    -- New events got the seqs that follow it, in the order given.
    previous_head bigint,
    -- The keys that were stored already, where, and whether by an earlier try of this very append. NULL when all are new.
    held_keys text[],
    held_seqs bigint[],
    held_mine boolean[]
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
    v_now timestamptz;
    v_epoch integer;
    v_head bigint;
    v_held_keys text[];
    v_held_seqs bigint[];
    v_held_mine boolean[];
    v_inserted bigint;
BEGIN
    -- 1. Profiles that are missing, except those named only by events that are stored already.
    SELECT array_agg(candidate.user_id), array_agg(candidate.profile_id)
    INTO v_new_user_ids, v_new_profile_ids
    FROM unnest(p_profile_user_ids, p_profile_ids) AS candidate (user_id, profile_id)
    WHERE (
        SELECT true FROM profiles AS p
        WHERE p.project_id = p_project_id AND p.user_id = candidate.user_id
        LIMIT 1
    ) IS NULL;
    IF v_new_user_ids IS NOT NULL THEN
        SELECT coalesce(array_agg(input.key), '{}') INTO v_skipped_keys
        FROM unnest(p_keys, p_user_ids) AS input (key, user_id)
        WHERE input.user_id = ANY (v_new_user_ids)
            AND (SELECT true FROM events AS e WHERE e.project_id = p_project_id AND e.key = input.key LIMIT 1);

        SELECT coalesce(array_agg(input.key), '{}'), coalesce(array_agg(input.user_id), '{}')
        INTO v_effective_keys, v_named_user_ids
        FROM unnest(p_keys, p_user_ids) AS input (key, user_id)
        WHERE input.user_id = ANY (v_new_user_ids) AND input.key <> ALL (v_skipped_keys);

        INSERT INTO profiles (project_id, profile_id, user_id, created_at)
        SELECT p_project_id, candidate.profile_id, candidate.user_id, clock_timestamp()
        FROM unnest(v_new_user_ids, v_new_profile_ids) AS candidate (user_id, profile_id)
        WHERE candidate.user_id = ANY (v_named_user_ids)
        ORDER BY candidate.user_id COLLATE "C"
        ON CONFLICT DO NOTHING;
    END IF;

    -- 2. Traits: lock the profiles in order, then see (in a statement after the wait) what is stored already.
    SELECT array_agg(DISTINCT input.user_id COLLATE "C") INTO v_trait_user_ids
    FROM unnest(p_user_ids, p_traits) AS input (user_id, traits)
    WHERE input.traits IS NOT NULL AND input.user_id IS NOT NULL;
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

    -- 4. What is stored already.
    SELECT array_agg(input.key), array_agg(held.seq), array_agg(held.batch_token = p_batch_token)
    INTO v_held_keys, v_held_seqs, v_held_mine
    FROM unnest(p_keys) AS input (key)
    CROSS JOIN LATERAL (
        SELECT e.seq, e.batch_token FROM events AS e
        WHERE e.project_id = p_project_id AND e.key = input.key
        LIMIT 1
    ) AS held;
    IF v_held_keys && v_effective_keys THEN
        RAISE EXCEPTION 'an event that changed a profile was stored meanwhile' USING ERRCODE = 'serialization_failure';
    END IF;

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
        WHERE input.key <> ALL (coalesce(v_held_keys, '{}'))
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
    IF v_inserted <> cardinality(p_keys) - coalesce(cardinality(v_held_keys), 0) THEN
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

    RETURN QUERY SELECT v_epoch, v_now, v_head, v_held_keys, v_held_seqs, v_held_mine;
END
$$;

INSERT INTO identity_links (project_id, kind, alias, user_id, linked_seq)
SELECT DISTINCT ON (project_id, anonymous_id) project_id, 'ANONYMOUS_ID', anonymous_id, user_id, seq
FROM events
WHERE user_id IS NOT NULL AND anonymous_id IS NOT NULL
ORDER BY project_id, anonymous_id, seq;
