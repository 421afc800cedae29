-- name: read_trusted_document
-- The text of one document by its hash.
SELECT document
FROM trusted_documents
WHERE project_id = $1 AND document_hash = $2;

-- name: save_trusted_documents
-- Keeps documents; those that are there already take their new name.
INSERT INTO trusted_documents AS d (project_id, document_hash, name, document, created_at)
SELECT $1, given.document_hash, given.name, given.document, $5
FROM unnest(CAST($2 AS bytea[]), CAST($3 AS text[]), CAST($4 AS text[])) AS given (document_hash, name, document)
ORDER BY given.document_hash
ON CONFLICT (project_id, document_hash) DO UPDATE SET name = excluded.name
RETURNING d.project_id, d.document_hash, d.name, d.document, d.created_at;

-- name: lock_trusted_documents
-- Which of some documents a project has, locked in the order of their hashes.
SELECT project_id, document_hash, name, document, created_at
FROM trusted_documents
WHERE project_id = $1 AND document_hash = ANY($2)
ORDER BY document_hash
FOR UPDATE;

-- name: delete_trusted_document
-- Forgets a document.
DELETE FROM trusted_documents
WHERE project_id = $1 AND document_hash = $2
RETURNING project_id, document_hash, name, document, created_at;

-- name: list_trusted_documents
-- Documents of a project by name and hash, after one if one is given.
SELECT project_id, document_hash, name, document, created_at
FROM trusted_documents
WHERE project_id = $1
    AND (CAST($2 AS text) IS NULL OR (name, document_hash) > (CAST($2 AS text), CAST($3 AS bytea)))
ORDER BY name, document_hash
LIMIT $4;

-- name: count_trusted_documents
-- How many documents a project has.
SELECT count(*) AS count
FROM trusted_documents
WHERE project_id = $1;
