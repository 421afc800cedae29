-- name: insert_board
-- Makes a board.
INSERT INTO boards (project_id, board_id, name, insight_ids, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $5)
RETURNING project_id, board_id, name, insight_ids, updated_at;

-- name: lock_board
-- A board, locked until the transaction ends.
SELECT project_id, board_id, name, insight_ids, updated_at
FROM boards
WHERE project_id = $1 AND board_id = $2
FOR UPDATE;

-- name: update_board
-- Replaces a board that the transaction has locked.
UPDATE boards
SET name = $3, insight_ids = $4, updated_at = $5
WHERE project_id = $1 AND board_id = $2
RETURNING project_id, board_id, name, insight_ids, updated_at;

-- name: delete_board
-- Deletes a board.
DELETE FROM boards
WHERE project_id = $1 AND board_id = $2
RETURNING board_id;

-- name: drop_insight
-- Takes an insight off every board of a project.
UPDATE boards
SET insight_ids = array_remove(insight_ids, $2)
WHERE project_id = $1 AND $2 = ANY(insight_ids);

-- name: find_board_name
-- Whose a name is.
SELECT board_id
FROM boards
WHERE project_id = $1 AND name = $2;

-- name: count_boards
-- How many boards a project has.
SELECT count(*) AS count
FROM boards
WHERE project_id = $1;

-- name: read_boards
-- Boards of a project by id.
SELECT project_id, board_id, name, insight_ids, updated_at
FROM boards
WHERE project_id = $1 AND board_id = ANY($2);

-- name: list_boards
-- Every board of a project, by name.
SELECT project_id, board_id, name, insight_ids, updated_at
FROM boards
WHERE project_id = $1
ORDER BY name;
