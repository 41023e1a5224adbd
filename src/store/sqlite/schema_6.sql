-- keys.db, version 6: this file as one node's copy of a store that several nodes share.

CREATE TABLE shared (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    -- What this node is called by the others; drawn once.
    node TEXT NOT NULL,
    -- The last change of the shared store that stands here; NULL is a file that never was a copy.
    seq INTEGER,
    -- The name of that change, drawn by who made it: two histories with the same number have other names.
    head TEXT,
    -- When the shared store was last heard, microseconds since the Unix epoch.
    heard INTEGER NOT NULL DEFAULT 0
) STRICT;

INSERT INTO shared (only_row, node) VALUES (1, lower(hex(randomblob(6))));

-- The last changes, so that what the shared store lost in a failover can be written again.
CREATE TABLE shared_log (
    seq INTEGER PRIMARY KEY,
    head TEXT NOT NULL,
    -- NULL where the change itself was not seen, only that it was the last one.
    header TEXT,
    rows TEXT
) STRICT;
