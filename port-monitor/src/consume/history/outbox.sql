-- Version 2: who else is to have the connections that have ended.

CREATE TABLE exports (
    name TEXT PRIMARY KEY,
    -- What this number of the outbox and more stands for was recorded for it.
    began INTEGER NOT NULL,
    -- All up to this number is sent.
    sent_to INTEGER NOT NULL,
    sent INTEGER NOT NULL,
    -- Forgotten before it was sent.
    expired INTEGER NOT NULL
) WITHOUT ROWID;

-- Rows that have ended, in the order of that, until every export has sent them. A row that is
-- completed after its end is there twice.
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    row INTEGER NOT NULL
);
CREATE INDEX outbox_rows ON outbox (row);
