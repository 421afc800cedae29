-- name: insert_template
-- Makes a template, unless its name is taken.
INSERT INTO templates (
    project_id, template_id, name, channel, subject, body_html, body_text, created_at, updated_at
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)
ON CONFLICT DO NOTHING
RETURNING project_id, template_id, name, channel, subject, body_html, body_text, created_at, updated_at;

-- name: lock_template
-- A template, locked until the transaction ends.
SELECT project_id, template_id, name, channel, subject, body_html, body_text, created_at, updated_at
FROM templates
WHERE project_id = $1 AND template_id = $2
FOR UPDATE;

-- name: update_template
-- Replaces a template that the transaction has locked.
UPDATE templates
SET name = $3, channel = $4, subject = $5, body_html = $6, body_text = $7, updated_at = $8
WHERE project_id = $1 AND template_id = $2
RETURNING project_id, template_id, name, channel, subject, body_html, body_text, created_at, updated_at;

-- name: find_template_name
-- Whose a name is.
SELECT template_id
FROM templates
WHERE project_id = $1 AND name = $2;

-- name: find_email_templates
-- Templates for email by some names.
SELECT name, template_id
FROM templates
WHERE project_id = $1 AND name = ANY($2) AND channel = 'EMAIL';

-- name: delete_template
-- Deletes a template.
DELETE FROM templates
WHERE project_id = $1 AND template_id = $2
RETURNING template_id;

-- name: read_templates
-- Templates of a project by id.
SELECT project_id, template_id, name, channel, subject, body_html, body_text, created_at, updated_at
FROM templates
WHERE project_id = $1 AND template_id = ANY($2);

-- name: list_templates
-- Templates of a project by name, of one channel if one is given, after a name if one is given.
SELECT project_id, template_id, name, channel, subject, body_html, body_text, created_at, updated_at
FROM templates
WHERE project_id = $1
    AND (CAST($2 AS text) IS NULL OR channel = $2)
    AND (CAST($3 AS text) IS NULL OR name > $3)
ORDER BY name
LIMIT $4;

-- name: count_templates
-- How many templates a project has.
SELECT count(*) AS count
FROM templates
WHERE project_id = $1;
