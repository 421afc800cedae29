-- What:  one row per person in audience_rechecks, not one per person and audience.
-- Why:   an event of somebody who is to be looked at anyway writes none: most of what keeping audiences cost were these.
-- Locks: audience_rechecks, for as long as going through it takes; only workers use it.
-- When:  with the workers of this release; those of the one before cannot keep audiences while both run, and those of this
--        one go on from where they stopped.

CREATE TEMPORARY TABLE rechecks ON COMMIT DROP AS
SELECT project_id, user_id, min(recheck_at) AS recheck_at FROM audience_rechecks GROUP BY project_id, user_id;

DROP TABLE audience_rechecks;

-- When a person has to be looked at again although nothing happens: never later than the passing of time alone changes
-- the answer of any audience. Business time. No row where it cannot. One for all audiences, so that an event of somebody
-- who is to be looked at anyway writes none.
CREATE TABLE audience_rechecks (
    project_id uuid NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    recheck_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, user_id)
) WITH (fillfactor = 80);

INSERT INTO audience_rechecks (project_id, user_id, recheck_at)
SELECT project_id, user_id, recheck_at FROM rechecks;

CREATE INDEX audience_rechecks_due ON audience_rechecks (recheck_at, project_id);
CREATE INDEX audience_rechecks_of_project ON audience_rechecks (project_id, recheck_at);
