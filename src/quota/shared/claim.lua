-- What one node has admitted of one subject, said again to a server that may have lost it.
-- KEYS: run, quota window, burst log, sum of that log
-- ARGV: node, opened (us), used and held, end of the window (us), the burst's length (us), a name for this claim, how much of the window the node heard
--       that others had used, then pairs: count, when (us from now)
local time = redis.call('TIME')
local now, last = time[1] * 1000000 + time[2], tonumber(redis.call('HGET', KEYS[1], 'last') or 0)
if last > now and last - now <= 1000000 then now = last end
local text = function(number) return string.format('%.0f', number) end
local used, heard = tonumber(ARGV[3]), tonumber(ARGV[7])
if (used > 0 or heard > 0) and tonumber(ARGV[4]) > now then
  local opened = redis.call('HGET', KEYS[2], 'opened')
  if opened and opened + (ARGV[4] - ARGV[2]) <= now then
    redis.call('DEL', KEYS[2])
    opened = false
  end
  if not opened then redis.call('HSET', KEYS[2], 'others', '0') end
  -- Of two windows the one that was opened first counts, with what both have.
  if not opened or tonumber(opened) > tonumber(ARGV[2]) then
    opened = ARGV[2]
    redis.call('HSET', KEYS[2], 'opened', opened)
    redis.call('PEXPIREAT', KEYS[2], text(ARGV[4] / 1000 + 1000))
  end
  local known = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or 0)
  if used > known then redis.call('HSET', KEYS[2], ARGV[1], text(used)) end
  local others = redis.call('HGET', KEYS[2], 'others')
  if others then
    -- A window that was forgotten: what was heard of others, and has not been claimed, counts for whoever it was until it says so.
    others = math.max(others - math.max(used - known, 0), 0)
    local sum, all = 0, redis.call('HGETALL', KEYS[2])
    for i = 1, #all, 2 do
      if all[i] ~= 'opened' and all[i] ~= 'others' and all[i] ~= ARGV[1] then sum = sum + all[i + 1] end
    end
    if opened == ARGV[2] then others = math.max(others, heard - sum) end
    redis.call('HSET', KEYS[2], 'others', text(others))
  end
end
if ARGV[5] ~= '0' then
  -- The node knows best what it used and holds: its own entries are put anew, which leaves out what it was given and never heard of.
  for _, member in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
    if string.match(member, '^%d+:([^:]*):') == ARGV[1] then redis.call('ZREM', KEYS[3], member) end
  end
  for i = 8, #ARGV, 2 do
    redis.call('ZADD', KEYS[3], text(now + ARGV[i + 1]), ARGV[i] .. ':' .. ARGV[1] .. ':' .. ARGV[6] .. '.' .. i)
  end
  local newest = redis.call('ZRANGE', KEYS[3], -1, -1, 'WITHSCORES')
  if newest[2] then redis.call('PEXPIREAT', KEYS[3], text((newest[2] + ARGV[5]) / 1000 + 1000)) end
  -- Summed anew by the next charge.
  redis.call('DEL', KEYS[4])
end
return 1
