-- What:  insights, which are saved questions about people, and boards, which show some of them beside one another.
-- Why:   so that a question is asked again without being written again; answers are never stored.
-- Locks: none that matter, both tables are new.
-- When:  before the release that needs it.

-- Questions about people that somebody keeps: a funnel, a retention or a trend, answered anew when it is looked at.
CREATE TABLE insights (
    project_id uuid NOT NULL REFERENCES projects,
    insight_id uuid NOT NULL,
    name text COLLATE "C" NOT NULL CHECK (name <> ''),
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('FUNNEL', 'RETENTION', 'TREND')),
    -- The question as its client wrote it: text that stays as it is.
    input json NOT NULL CHECK (json_typeof(input) = 'object'),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, insight_id)
);

CREATE UNIQUE INDEX insights_by_name ON insights (project_id, name);

-- Insights beside one another. Locked after the insights that it shows.
CREATE TABLE boards (
    project_id uuid NOT NULL REFERENCES projects,
    board_id uuid NOT NULL,
    name text COLLATE "C" NOT NULL CHECK (name <> ''),
    -- In the order in which they are shown; an insight that is deleted leaves all boards.
    insight_ids uuid[] NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, board_id)
);

CREATE UNIQUE INDEX boards_by_name ON boards (project_id, name);
