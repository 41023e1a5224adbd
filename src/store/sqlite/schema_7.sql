-- keys.db, version 7: which shared store it is a copy of, and how many nodes shared it.

-- Drawn with the first change of that store; NULL is not known yet.
ALTER TABLE shared ADD COLUMN store TEXT;
-- As last heard; 0 is not known.
ALTER TABLE shared ADD COLUMN peers INTEGER NOT NULL DEFAULT 0;
