-- What:  append_events leaves out what may not be stored: analytics events of people whose consent does not allow them,
--        and events that were erased once.
-- Why:   a revocation that is in the log is followed by no analytics event of that person, whatever was under way; an
--        SDK that tries again does not bring an erased person back.
-- Locks: consents against writers while a small index of it is made; the function is replaced by one with a parameter
--        more, which has a default: the running release calls it as before.
-- When:  before the release that needs it.

-- The few that must be looked for before anything of a project is stored without a look at its people.
-- By the project's text: so no other index can be taken for it, whatever the planner believes of a table that grows.
CREATE INDEX consents_against_analytics ON consents (CAST(project_id AS text))
WHERE purpose = 'ANALYTICS' AND state IN ('DENIED', 'REVOKED');

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

DROP FUNCTION append_events(
    uuid, bigint, text[], text[], text[], timestamptz[], text[], text[], text[], text[], text[], text[], uuid[]
);

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
