-- name: insert_audit_entry
-- Adds an entry.
INSERT INTO audit_entries (project_id, audit_entry_id, at, actor, action, subject, before, after, user_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);
