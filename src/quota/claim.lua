-- What one node has admitted of one subject, said again to a server that may have lost it.
-- KEYS: quota window, burst log, sum of that log
-- ARGV: node, opened (us), used, end of the window (us), admitted within the burst's length, that length (us), a name for this claim
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local text = function(number) return string.format('%.0f', number) end
local used = tonumber(ARGV[3])
if used > 0 and tonumber(ARGV[4]) > now then
  local opened = redis.call('HGET', KEYS[1], 'opened')
  -- Of two windows the one that was opened first counts, with what both have.
  if not opened or tonumber(opened) > tonumber(ARGV[2]) then
    redis.call('HSET', KEYS[1], 'opened', ARGV[2])
    redis.call('PEXPIREAT', KEYS[1], text(ARGV[4] / 1000 + 1000))
  end
  local known = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0)
  if used > known then redis.call('HSET', KEYS[1], ARGV[1], text(used)) end
end
local burst, length = tonumber(ARGV[5]), tonumber(ARGV[6])
if burst > 0 then
  local own = 0
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. text(now - length), '+inf')) do
    local count, node = string.match(member, '^(%d+):([^:]*):')
    if node == ARGV[1] then own = own + count end
  end
  if burst > own then
    redis.call('ZADD', KEYS[2], text(now), text(burst - own) .. ':' .. ARGV[1] .. ':' .. ARGV[7])
    redis.call('PEXPIRE', KEYS[2], text(length / 1000 + 1000))
    -- Summed anew by the next charge.
    redis.call('DEL', KEYS[3])
  end
end
return 1
