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
    PRIMARY KEY (project_id, audience_id)
);

CREATE UNIQUE INDEX audiences_by_name ON audiences (project_id, name) WHERE deleted_at IS NULL;

-- When a send to an audience that is in progress is to be gone on with, in business time. NULL of anything else.
ALTER TABLE send_batches ADD COLUMN continue_at timestamptz;

CREATE INDEX send_batches_continuing ON send_batches (continue_at, project_id, batch_id) WHERE continue_at IS NOT NULL;

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
-- Those that are few among all: what is RUNNING or COMPLETED is found among the newest.
CREATE INDEX workflow_runs_by_status ON workflow_runs (project_id, status, run_id)
WHERE status IN ('QUEUED', 'PAUSED', 'FAILED', 'CANCELLED');

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

-- Which step of its run made a delivery.
ALTER TABLE deliveries ADD COLUMN workflow_step_number integer;

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
