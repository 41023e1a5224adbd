-- Some rows of an empty shared store that one node fills; nothing when its turn is over.
-- KEYS: whose turn it is, facts, log, when each bucket changed last, prefix of buckets, when the last sign of life was given
-- ARGV: the caller's turn, how long it has for the next rows (ms), number of the change that the store begins at,
--       then 'begin' and buckets that may have rows left, 'rows' and (bucket, field, text), or 'end', name of that change, its header, name of the
--       store, name of this filling, 1 if it begins, so that no node can be there yet
if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if ARGV[4] == 'begin' then
  redis.call('DEL', KEYS[3], KEYS[4])
  for at = 5, #ARGV do redis.call('DEL', KEYS[5] .. ARGV[at]) end
  return 1
end
if ARGV[4] == 'rows' then
  for at = 5, #ARGV, 3 do
    redis.call('HSET', KEYS[5] .. ARGV[at], ARGV[at + 1], ARGV[at + 2])
    redis.call('HSET', KEYS[4], ARGV[at], ARGV[3])
  end
  return 1
end
redis.call('HSET', KEYS[2], 'seq', ARGV[3], 'head', ARGV[5], 'header', ARGV[6], 'filling', ARGV[8])
if ARGV[7] ~= '' then redis.call('HSET', KEYS[2], 'store', ARGV[7]) end
-- So that whoever is at another change with this number finds that out.
if ARGV[3] ~= '0' then redis.call('XADD', KEYS[3], ARGV[3] .. '-0', 'n', ARGV[5], 'h', '') end
if ARGV[9] == '1' then redis.call('SET', KEYS[6], redis.call('TIME')[1] .. '000') end
redis.call('DEL', KEYS[1])
return 1
