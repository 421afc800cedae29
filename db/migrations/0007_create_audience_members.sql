-- What:  who belongs to audiences, kept up to date; the audiences lane of the log.
-- Why:   that somebody came or left is told within a second, and time that passes is noticed without looking at
--        everybody: each person and audience whose answer time alone may change has a row that says when.
-- Locks: `audiences` for a moment (columns with constant defaults); the rest is new.
-- When:  before the release that needs it. What was saved before is gone through by a worker (is_building).

-- Raised when what it asks for changes, so that whoever keeps audiences in memory sees that they are old.
ALTER TABLE audiences ADD COLUMN revision integer NOT NULL DEFAULT 1 CHECK (revision > 0);
-- Whether everybody is still to be looked at for it, since it was saved; of a deleted one, to be forgotten.
ALTER TABLE audiences ADD COLUMN is_building boolean NOT NULL DEFAULT true;
-- The user id up to which that is done.
ALTER TABLE audiences ADD COLUMN built_up_to text COLLATE "C";

CREATE INDEX audiences_building ON audiences (project_id, audience_id) WHERE is_building;

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

-- When a person, member or not, has to be looked at again although nothing happens: never later than the passing of
-- time alone changes the answer. Business time. No row where it cannot.
CREATE TABLE audience_rechecks (
    project_id uuid NOT NULL,
    audience_id uuid NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    recheck_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, audience_id, user_id)
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
