-- keys.db, version 2: what ties a key down, what a tenant has of its own, and overlapping regeneration.

ALTER TABLE api_key ADD COLUMN subject TEXT;
-- Separated by spaces; NULL is none.
ALTER TABLE api_key ADD COLUMN origins TEXT;
ALTER TABLE api_key ADD COLUMN cidrs TEXT;
ALTER TABLE api_key ADD COLUMN note TEXT;
CREATE INDEX api_key_tenant ON api_key (tenant);

-- As in api_key.
ALTER TABLE tenant ADD COLUMN scopes TEXT;
ALTER TABLE tenant ADD COLUMN quota TEXT;
ALTER TABLE tenant ADD COLUMN burst TEXT;

-- Until then the digest is still taken for its key; NULL is not at all.
ALTER TABLE retired_digest ADD COLUMN valid_until INTEGER;
CREATE INDEX retired_digest_key ON retired_digest (key_id);
