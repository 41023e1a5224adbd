-- keys.db, version 4: what administrators did, and the tokens that they may do it with.

-- Lines are only ever added. Each hash is SHA-256 over the hash before it and every other column, so that a line that is changed, missing or
-- in another place is found.
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    origin TEXT NOT NULL,
    act TEXT NOT NULL,
    subject TEXT NOT NULL,
    -- What `meta.revision` was once it was done.
    revision INTEGER NOT NULL,
    -- JSON, without secrets; NULL is nothing.
    before TEXT,
    after TEXT,
    -- The caller's name for this act, what it asked for (SHA-256), and whom it made: an act that is asked for twice is done once.
    once_key TEXT,
    once_print TEXT,
    result TEXT,
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;
CREATE INDEX audit_once ON audit (who, once_key) WHERE once_key IS NOT NULL;

-- The last line, so that the end of the log cannot be cut off unseen.
ALTER TABLE meta ADD COLUMN audit_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE meta ADD COLUMN audit_hash BLOB NOT NULL DEFAULT x'0000000000000000000000000000000000000000000000000000000000000000';

-- Rows are never removed. The text of a token is nowhere; its digest is SHA-256 of it.
CREATE TABLE admin_token (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    name TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('full', 'read-only', 'tenant')),
    tenant TEXT CHECK ((role = 'tenant') = (tenant IS NOT NULL)),
    last_four TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER,
    revoked INTEGER
) STRICT;
