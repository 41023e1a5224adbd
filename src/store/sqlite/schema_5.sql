-- keys.db, version 5: access tokens that are denied before their time.

CREATE TABLE denied_token (
    denied_by TEXT NOT NULL CHECK (denied_by IN ('jti', 'subject', 'client')),
    value TEXT NOT NULL,
    -- '' is any.
    issuer TEXT NOT NULL,
    created INTEGER NOT NULL,
    -- From then on it counts no more; NULL is never.
    expires INTEGER,
    -- Only tokens issued until then; NULL is all.
    issued_until INTEGER,
    note TEXT,
    PRIMARY KEY (denied_by, value, issuer)
) STRICT, WITHOUT ROWID;
