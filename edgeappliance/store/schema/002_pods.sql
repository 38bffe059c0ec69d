-- What this node made of its pods: what must survive a restart so that nothing runs twice and nothing is forgotten.
CREATE TABLE pod (
    uid        TEXT PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,               -- <namespace>/<name>
    started_ms INTEGER NOT NULL,            -- when this node took it on
    finished   TEXT NOT NULL DEFAULT '',    -- Succeeded or Failed: it never starts again
    reason     TEXT NOT NULL DEFAULT '',    -- why it was ended by the node (Evicted, DeadlineExceeded, ...)
    message    TEXT NOT NULL DEFAULT '',
    status     BLOB NOT NULL DEFAULT '{}'   -- the newest status, as reported
) WITHOUT ROWID;
