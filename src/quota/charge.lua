-- Charges one request to every window of its subjects, or to none.
-- KEYS: run; then per subject its quota window, its burst log, the sum of that log
-- ARGV: run id of the server as the caller knows it, node, cost, 1 to charge or 0 to look, a name for this charge, how long to learn (us),
--       then per subject quota count, quota seconds, burst count, burst seconds (count -1: no such window)
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local known = redis.call('HMGET', KEYS[1], 'run', 'learn', 'last')
-- A clock that was set back must not let a window pass twice.
now = math.max(now, tonumber(known[3] or 0))
local learn = tonumber(known[2] or 0)
if known[1] ~= ARGV[1] then
  -- Another server, or one that begins anew: what it may have lost is said again by the nodes before anything is admitted.
  learn = now + ARGV[6]
  redis.call('HSET', KEYS[1], 'run', ARGV[1], 'learn', string.format('%.0f', learn))
end
redis.call('HSET', KEYS[1], 'last', string.format('%.0f', now))
local text = function(number) return string.format('%.0f', number) end
if now < learn then return {'learning', text(now), text(learn - now)} end
local node, cost, wait = ARGV[2], tonumber(ARGV[3]), 0
local subjects = {}
for index = 1, (#KEYS - 1) / 3 do
  local quota, log, sum = KEYS[index * 3 - 1], KEYS[index * 3], KEYS[index * 3 + 1]
  local at = 3 + index * 4
  local s = {qn = tonumber(ARGV[at]), qs = ARGV[at + 1] * 1000000, bn = tonumber(ARGV[at + 2]), bs = ARGV[at + 3] * 1000000, used = 0, total = 0}
  if s.qn >= 0 then
    local all = redis.call('HGETALL', quota)
    for i = 1, #all, 2 do
      if all[i] == 'opened' then s.opened = tonumber(all[i + 1]) else s.used = s.used + all[i + 1] end
    end
    if s.opened and now >= s.opened + s.qs then
      redis.call('DEL', quota)
      s.opened, s.used = nil, 0
    end
    if s.used + cost > s.qn then
      wait = math.max(wait, (s.opened or now) + s.qs - now)
    end
  end
  if s.bn >= 0 then
    local gone = redis.call('ZRANGEBYSCORE', log, '-inf', text(now - s.bs))
    local less = 0
    for _, member in ipairs(gone) do less = less + string.match(member, '^(%d+)') end
    if #gone > 0 then redis.call('ZREMRANGEBYSCORE', log, '-inf', text(now - s.bs)) end
    if redis.call('EXISTS', log) == 1 then
      local kept = redis.call('GET', sum)
      if not kept then
        kept = less
        for _, member in ipairs(redis.call('ZRANGE', log, 0, -1)) do kept = kept + string.match(member, '^(%d+)') end
        redis.call('SET', sum, kept, 'PX', text(s.bs / 1000 + 1000))
      end
      s.total = kept - less
      if less > 0 then redis.call('SET', sum, s.total, 'KEEPTTL') end
    else
      redis.call('DEL', sum)
    end
    local excess = s.total + cost - s.bn
    if excess > 0 then
      local found = redis.call('ZRANGE', log, 0, excess - 1, 'WITHSCORES')
      local frees = now + s.bs
      for i = 1, #found, 2 do
        excess = excess - string.match(found[i], '^(%d+)')
        if excess <= 0 then frees = found[i + 1] + s.bs break end
      end
      wait = math.max(wait, frees - now)
    end
  end
  subjects[index] = s
end
local answer = {wait == 0 and 'admitted' or 'refused', text(now), text(wait)}
for index, s in ipairs(subjects) do
  local quota, log, sum = KEYS[index * 3 - 1], KEYS[index * 3], KEYS[index * 3 + 1]
  if wait == 0 and ARGV[4] == '1' then
    if s.qn >= 0 then
      if not s.opened then
        s.opened = now - now % 1000000
        redis.call('HSET', quota, 'opened', text(s.opened))
      end
      redis.call('HINCRBY', quota, node, cost)
      redis.call('PEXPIREAT', quota, text((s.opened + s.qs) / 1000 + 1000))
      s.used = s.used + cost
    end
    if s.bn >= 0 then
      s.total = s.total + cost
      redis.call('ZADD', log, text(now), cost .. ':' .. node .. ':' .. ARGV[5])
      redis.call('PEXPIRE', log, text(s.bs / 1000 + 1000))
      redis.call('SET', sum, s.total, 'PX', text(s.bs / 1000 + 1000))
    end
  end
  local last = s.bn >= 0 and redis.call('ZRANGE', log, -1, -1, 'WITHSCORES') or {}
  answer[#answer + 1] = text(math.max(s.qn - s.used, 0))
  answer[#answer + 1] = text(s.opened or now - now % 1000000)
  answer[#answer + 1] = text(math.max(s.bn - s.total, 0))
  answer[#answer + 1] = text(last[2] and last[2] + s.bs - now or 0)
  answer[#answer + 1] = s.opened and '1' or '0'
end
return answer
