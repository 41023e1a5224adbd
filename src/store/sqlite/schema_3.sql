-- keys.db, version 3: places of a tenant's own.

-- A JSON object, name of the upstream to servers ('http://10.0.0.7:3000', several separated by spaces); NULL is none.
ALTER TABLE tenant ADD COLUMN upstreams TEXT;
