-- no-transaction
-- What:  indexes by which erasure finds what a person left behind: events under an anonymous id, deliveries and runs that
--        an event of theirs caused, deliveries to an address alone, changes of audiences.
-- Why:   a person is erased in one transaction, which must not read a whole project for it.
-- Locks: none that writers wait for: each index is made concurrently, and each partition's by itself.
-- When:  before the release that needs it. Erasure works without them, only slower.

-- Whoever has signed up is found by their user id.
CREATE INDEX IF NOT EXISTS events_by_anonymous ON ONLY events (project_id, anonymous_id, seq)
WHERE anonymous_id IS NOT NULL AND user_id IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS events_0_project_id_anonymous_id_seq_idx ON events_0 (project_id, anonymous_id, seq)
WHERE anonymous_id IS NOT NULL AND user_id IS NULL;
ALTER INDEX events_by_anonymous ATTACH PARTITION events_0_project_id_anonymous_id_seq_idx;
CREATE INDEX CONCURRENTLY IF NOT EXISTS events_1_project_id_anonymous_id_seq_idx ON events_1 (project_id, anonymous_id, seq)
WHERE anonymous_id IS NOT NULL AND user_id IS NULL;
ALTER INDEX events_by_anonymous ATTACH PARTITION events_1_project_id_anonymous_id_seq_idx;
CREATE INDEX CONCURRENTLY IF NOT EXISTS events_2_project_id_anonymous_id_seq_idx ON events_2 (project_id, anonymous_id, seq)
WHERE anonymous_id IS NOT NULL AND user_id IS NULL;
ALTER INDEX events_by_anonymous ATTACH PARTITION events_2_project_id_anonymous_id_seq_idx;
CREATE INDEX CONCURRENTLY IF NOT EXISTS events_3_project_id_anonymous_id_seq_idx ON events_3 (project_id, anonymous_id, seq)
WHERE anonymous_id IS NOT NULL AND user_id IS NULL;
ALTER INDEX events_by_anonymous ATTACH PARTITION events_3_project_id_anonymous_id_seq_idx;
CREATE INDEX CONCURRENTLY IF NOT EXISTS events_4_project_id_anonymous_id_seq_idx ON events_4 (project_id, anonymous_id, seq)
WHERE anonymous_id IS NOT NULL AND user_id IS NULL;
ALTER INDEX events_by_anonymous ATTACH PARTITION events_4_project_id_anonymous_id_seq_idx;
CREATE INDEX CONCURRENTLY IF NOT EXISTS events_5_project_id_anonymous_id_seq_idx ON events_5 (project_id, anonymous_id, seq)
WHERE anonymous_id IS NOT NULL AND user_id IS NULL;
ALTER INDEX events_by_anonymous ATTACH PARTITION events_5_project_id_anonymous_id_seq_idx;
CREATE INDEX CONCURRENTLY IF NOT EXISTS events_6_project_id_anonymous_id_seq_idx ON events_6 (project_id, anonymous_id, seq)
WHERE anonymous_id IS NOT NULL AND user_id IS NULL;
ALTER INDEX events_by_anonymous ATTACH PARTITION events_6_project_id_anonymous_id_seq_idx;
CREATE INDEX CONCURRENTLY IF NOT EXISTS events_7_project_id_anonymous_id_seq_idx ON events_7 (project_id, anonymous_id, seq)
WHERE anonymous_id IS NOT NULL AND user_id IS NULL;
ALTER INDEX events_by_anonymous ATTACH PARTITION events_7_project_id_anonymous_id_seq_idx;

CREATE INDEX IF NOT EXISTS audience_changes_by_user ON ONLY audience_changes (project_id, user_id, seq);
CREATE INDEX CONCURRENTLY IF NOT EXISTS audience_changes_0_project_id_user_id_seq_idx ON audience_changes_0 (project_id, user_id, seq);
ALTER INDEX audience_changes_by_user ATTACH PARTITION audience_changes_0_project_id_user_id_seq_idx;
CREATE INDEX CONCURRENTLY IF NOT EXISTS audience_changes_1_project_id_user_id_seq_idx ON audience_changes_1 (project_id, user_id, seq);
ALTER INDEX audience_changes_by_user ATTACH PARTITION audience_changes_1_project_id_user_id_seq_idx;
CREATE INDEX CONCURRENTLY IF NOT EXISTS audience_changes_2_project_id_user_id_seq_idx ON audience_changes_2 (project_id, user_id, seq);
ALTER INDEX audience_changes_by_user ATTACH PARTITION audience_changes_2_project_id_user_id_seq_idx;
CREATE INDEX CONCURRENTLY IF NOT EXISTS audience_changes_3_project_id_user_id_seq_idx ON audience_changes_3 (project_id, user_id, seq);
ALTER INDEX audience_changes_by_user ATTACH PARTITION audience_changes_3_project_id_user_id_seq_idx;
CREATE INDEX CONCURRENTLY IF NOT EXISTS audience_changes_4_project_id_user_id_seq_idx ON audience_changes_4 (project_id, user_id, seq);
ALTER INDEX audience_changes_by_user ATTACH PARTITION audience_changes_4_project_id_user_id_seq_idx;
CREATE INDEX CONCURRENTLY IF NOT EXISTS audience_changes_5_project_id_user_id_seq_idx ON audience_changes_5 (project_id, user_id, seq);
ALTER INDEX audience_changes_by_user ATTACH PARTITION audience_changes_5_project_id_user_id_seq_idx;
CREATE INDEX CONCURRENTLY IF NOT EXISTS audience_changes_6_project_id_user_id_seq_idx ON audience_changes_6 (project_id, user_id, seq);
ALTER INDEX audience_changes_by_user ATTACH PARTITION audience_changes_6_project_id_user_id_seq_idx;
CREATE INDEX CONCURRENTLY IF NOT EXISTS audience_changes_7_project_id_user_id_seq_idx ON audience_changes_7 (project_id, user_id, seq);
ALTER INDEX audience_changes_by_user ATTACH PARTITION audience_changes_7_project_id_user_id_seq_idx;

-- Webhooks: what is for a person is found by the person.
CREATE INDEX CONCURRENTLY IF NOT EXISTS deliveries_by_event ON deliveries (project_id, event_seq)
WHERE event_seq IS NOT NULL AND user_id IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS deliveries_by_address ON deliveries (project_id, lower(recipient))
WHERE recipient IS NOT NULL AND user_id IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS workflow_runs_by_event ON workflow_runs (project_id, event_seq)
WHERE event_seq IS NOT NULL AND user_id IS NULL;
