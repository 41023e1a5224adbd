-- One change of the shared store: all of it, or nothing.
-- KEYS: facts, log, when each bucket changed last, prefix of buckets
-- ARGV: number and name of the last change that the caller knows, name of this one, its header, 1 if the log carries the rows, then (bucket, field, text)
local last = redis.call('HMGET', KEYS[1], 'seq', 'head')
if not last[1] then return {'empty', '0', ''} end
local next = string.format('%.0f', ARGV[1] + 1)
if last[1] ~= ARGV[1] or last[2] ~= ARGV[2] then
  -- An answer that was lost is given again.
  local done = redis.call('XRANGE', KEYS[2], next .. '-0', next .. '-0')
  if done[1] and done[1][2][2] == ARGV[3] then return {'done', next, ARGV[3]} end
  return {'behind', last[1], last[2]}
end
local line = {'n', ARGV[3], 'h', ARGV[4]}
local buckets = {}
for at = 6, #ARGV, 3 do
  local bucket, field, text = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if text == '' then
    redis.call('HDEL', KEYS[4] .. bucket, field)
  else
    redis.call('HSET', KEYS[4] .. bucket, field, text)
  end
  if not buckets[bucket] then
    buckets[bucket] = true
    redis.call('HSET', KEYS[3], bucket, next)
  end
  -- Which lines of the audit log are kept, the header says.
  if ARGV[5] == '1' and not (text == '' and string.sub(bucket, 1, 2) == 'u:') then
    line[#line + 1] = field
    line[#line + 1] = text
  end
end
redis.call('HSET', KEYS[1], 'seq', next, 'head', ARGV[3], 'header', ARGV[4])
-- A store is called by its first change, for good.
redis.call('HSETNX', KEYS[1], 'store', ARGV[3])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', '10000', next .. '-0', unpack(line))
return {'done', next, ARGV[3]}
