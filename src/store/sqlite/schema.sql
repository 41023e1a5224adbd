-- keys.db, version 1. Times are microseconds since the Unix epoch. No table ever holds the text of a key.

CREATE TABLE meta (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    -- Grows by one with each change.
    revision INTEGER NOT NULL
) STRICT;

INSERT INTO meta (only_row, revision) VALUES (1, 0);

CREATE TABLE tenant (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    plan TEXT NOT NULL,
    suspended INTEGER NOT NULL CHECK (suspended IN (0, 1)),
    created INTEGER NOT NULL
) STRICT;

-- Rows are never removed: a revoked or deleted row is the tombstone that keeps its id and digest from coming back.
CREATE TABLE api_key (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    -- 1: SHA-256 of the whole key text.
    digest_version INTEGER NOT NULL CHECK (digest_version = 1),
    name TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('secret', 'public')),
    environment TEXT NOT NULL,
    tenant TEXT NOT NULL,
    plan TEXT,
    -- 'unlimited' or a rate such as '7/hour'; NULL is the plan's.
    quota TEXT,
    burst TEXT,
    -- Separated by spaces; NULL inherits.
    scopes TEXT,
    created INTEGER NOT NULL,
    expires INTEGER,
    status TEXT NOT NULL CHECK (status IN ('active', 'inactive', 'revoked', 'deleted')),
    prefix TEXT NOT NULL,
    last_four TEXT NOT NULL,
    -- 'file': a tombstone for a key that gateway.toml declares.
    declared_in TEXT NOT NULL CHECK (declared_in IN ('store', 'file')),
    CHECK (declared_in = 'store' OR status IN ('revoked', 'deleted'))
) STRICT;

-- Digests that regenerated keys had before; they can never come back either.
CREATE TABLE retired_digest (
    digest BLOB PRIMARY KEY CHECK (length(digest) = 32),
    key_id TEXT NOT NULL,
    retired INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
