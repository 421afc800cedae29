-- name: insert_audit_entry
-- Adds an entry.
INSERT INTO audit_entries (project_id, audit_entry_id, at, actor, action, subject, before, after, user_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: list_audit_entries
-- A project's entries from the newest on, after (so older than) one position and before (so newer than) another.
SELECT project_id, audit_entry_id, at, actor, action, subject, before, after, user_id
FROM audit_entries
WHERE project_id = $1
    AND (at, audit_entry_id) < (
        coalesce(CAST($2 AS timestamptz), 'infinity'),
        coalesce(CAST($3 AS uuid), 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    )
    AND (at, audit_entry_id) > (
        coalesce(CAST($4 AS timestamptz), '-infinity'),
        coalesce(CAST($5 AS uuid), '00000000-0000-0000-0000-000000000000')
    )
ORDER BY at DESC, audit_entry_id DESC
LIMIT $6;

-- name: list_audit_entries_backwards
-- The same, from the oldest on.
SELECT project_id, audit_entry_id, at, actor, action, subject, before, after, user_id
FROM audit_entries
WHERE project_id = $1
    AND (at, audit_entry_id) < (
        coalesce(CAST($2 AS timestamptz), 'infinity'),
        coalesce(CAST($3 AS uuid), 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    )
    AND (at, audit_entry_id) > (
        coalesce(CAST($4 AS timestamptz), '-infinity'),
        coalesce(CAST($5 AS uuid), '00000000-0000-0000-0000-000000000000')
    )
ORDER BY at, audit_entry_id
LIMIT $6;

-- name: list_audit_entries_of_subject
-- A project's entries about one subject from the newest on, between two positions as above.
SELECT project_id, audit_entry_id, at, actor, action, subject, before, after, user_id
FROM audit_entries
WHERE project_id = $1
    AND subject = $7
    AND (at, audit_entry_id) < (
        coalesce(CAST($2 AS timestamptz), 'infinity'),
        coalesce(CAST($3 AS uuid), 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    )
    AND (at, audit_entry_id) > (
        coalesce(CAST($4 AS timestamptz), '-infinity'),
        coalesce(CAST($5 AS uuid), '00000000-0000-0000-0000-000000000000')
    )
ORDER BY at DESC, audit_entry_id DESC
LIMIT $6;

-- name: list_audit_entries_of_subject_backwards
-- The same, from the oldest on.
SELECT project_id, audit_entry_id, at, actor, action, subject, before, after, user_id
FROM audit_entries
WHERE project_id = $1
    AND subject = $7
    AND (at, audit_entry_id) < (
        coalesce(CAST($2 AS timestamptz), 'infinity'),
        coalesce(CAST($3 AS uuid), 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    )
    AND (at, audit_entry_id) > (
        coalesce(CAST($4 AS timestamptz), '-infinity'),
        coalesce(CAST($5 AS uuid), '00000000-0000-0000-0000-000000000000')
    )
ORDER BY at, audit_entry_id
LIMIT $6;

-- name: read_audit_entries
-- Entries of a project by their ids.
SELECT project_id, audit_entry_id, at, actor, action, subject, before, after, user_id
FROM audit_entries
WHERE project_id = $1 AND audit_entry_id = ANY($2);

-- name: erase_person_of_audit_entries
-- Takes a person ($2, as actor or subject $3) out of the entries that name them; gives how many that were.
WITH erased AS (
    UPDATE audit_entries
    SET
        user_id = NULL,
        actor = CASE WHEN actor = $3 THEN $4 ELSE actor END,
        subject = CASE WHEN subject = $3 THEN $4 ELSE subject END,
        before = CASE WHEN user_id = $2 OR subject = $3 THEN NULL ELSE before END,
        after = CASE WHEN user_id = $2 OR subject = $3 THEN NULL ELSE after END
    WHERE project_id = $1 AND (user_id = $2 OR actor = $3 OR subject = $3)
    RETURNING audit_entry_id
)
SELECT count(*) AS entries FROM erased;
