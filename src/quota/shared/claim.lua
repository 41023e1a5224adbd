-- What one node has admitted of one subject, said again to a server that may have lost it.
-- KEYS: run, quota window, burst log, sum of that log
-- ARGV: node, opened (us), used and held, end of the window (us), the burst's length (us), a name for this claim, then pairs: count, when (us from now)
local time = redis.call('TIME')
local now = math.max(time[1] * 1000000 + time[2], tonumber(redis.call('HGET', KEYS[1], 'last') or 0))
local text = function(number) return string.format('%.0f', number) end
local used = tonumber(ARGV[3])
if used > 0 and tonumber(ARGV[4]) > now then
  local opened = redis.call('HGET', KEYS[2], 'opened')
  if opened and opened + (ARGV[4] - ARGV[2]) <= now then
    redis.call('DEL', KEYS[2])
    opened = false
  end
  -- Of two windows the one that was opened first counts, with what both have.
  if not opened or tonumber(opened) > tonumber(ARGV[2]) then
    redis.call('HSET', KEYS[2], 'opened', ARGV[2])
    redis.call('PEXPIREAT', KEYS[2], text(ARGV[4] / 1000 + 1000))
  end
  local known = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or 0)
  if used > known then redis.call('HSET', KEYS[2], ARGV[1], text(used)) end
end
if ARGV[5] ~= '0' then
  -- The node knows best what it used and holds: its own entries are put anew, which leaves out what it was given and never heard of.
  for _, member in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
    if string.match(member, '^%d+:([^:]*):') == ARGV[1] then redis.call('ZREM', KEYS[3], member) end
  end
  for i = 7, #ARGV, 2 do
    redis.call('ZADD', KEYS[3], text(now + ARGV[i + 1]), ARGV[i] .. ':' .. ARGV[1] .. ':' .. ARGV[6] .. '.' .. i)
  end
  local last = redis.call('ZRANGE', KEYS[3], -1, -1, 'WITHSCORES')
  if last[2] then redis.call('PEXPIREAT', KEYS[3], text((last[2] + ARGV[5]) / 1000 + 1000)) end
  -- Summed anew by the next charge.
  redis.call('DEL', KEYS[4])
end
return 1
