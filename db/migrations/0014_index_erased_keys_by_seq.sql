-- What:  an index of the keys of erased events by where these stood.
-- Why:   retention forgets them together with the keys of the events around them, so that they are not kept for ever.
-- Locks: erased_keys against writers while it is made; it is as large as what was ever erased.
-- When:  before the release that needs it.

CREATE INDEX erased_keys_by_seq ON erased_keys (project_id, seq);
