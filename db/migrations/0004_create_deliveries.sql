-- What:  deliveries with their attempts and their lane of the log, and what they are made of: providers, push tokens,
--        templates, sender domains, webhook endpoints, consents; and the positions of followers.
-- Why:   see docs/architecture.md. What is to be done is rows of ours; who does it is the job engine's (0005).
-- Locks: none that matter, all tables are new.
-- When:  before the first release that needs it.
--
-- Every key starts with project_id. A column named sealed_… is AES-256-GCM, see engine/vault.py.

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
    PRIMARY KEY (project_id, batch_id)
);

CREATE UNIQUE INDEX send_batches_by_key ON send_batches (project_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX send_batches_in_progress ON send_batches (project_id, batch_id) WHERE progress IS NOT NULL;

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
