-- name: insert_organization
-- Makes an organization.
INSERT INTO organizations (organization_id, name, region)
VALUES ($1, $2, $3);

-- name: find_region
-- Where an organization's data is kept.
SELECT region
FROM organizations
WHERE organization_id = $1;

-- name: insert_project
-- Makes a project with the heads of its four lanes.
WITH made AS (
    INSERT INTO projects (project_id, organization_id, name, region, salt)
    VALUES ($1, $2, $3, $4, $5)
    RETURNING project_id, organization_id, region, name, created_at, salt
),
lanes AS (
    INSERT INTO heads (project_id, lane)
    SELECT made.project_id, lane FROM made CROSS JOIN generate_series(1, 4) AS lane
)
SELECT p.project_id, p.organization_id, o.name AS organization_name, o.region, p.name, p.created_at, p.salt
FROM made AS p
JOIN organizations AS o USING (organization_id);

-- name: read_projects
-- Projects by id.
SELECT p.project_id, p.organization_id, o.name AS organization_name, o.region, p.name, p.created_at, p.salt
FROM projects AS p
JOIN organizations AS o USING (organization_id)
WHERE p.project_id = ANY($1)
ORDER BY p.project_id;

-- name: list_projects
-- All projects of an organization, oldest first.
SELECT p.project_id, p.organization_id, o.name AS organization_name, o.region, p.name, p.created_at, p.salt
FROM projects AS p
JOIN organizations AS o USING (organization_id)
WHERE p.organization_id = $1
ORDER BY p.created_at, p.project_id;
