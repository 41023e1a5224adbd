-- Begins every script that charges: the time that counts, whether this server has to learn first, and what stands in one subject's windows.
-- KEYS[1]: run. ARGV: run id of the server as the caller knows it, node, how long to learn (us), the epoch in which the node has said what it admitted
local text = function(number) return string.format('%.0f', number) end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local known = redis.call('HMGET', KEYS[1], 'run', 'learn', 'last')
-- A clock that was set back: time stands still for a second at most. Beyond that the new time counts, and what stands ahead of it counts from now (see
-- `look`), so that nothing passes twice and no window lasts for longer than its length, and a lease's, from then on.
local last = tonumber(known[3] or 0)
if last > now and last - now <= 1000000 then now = last end
local learn = tonumber(known[2] or 0)
if known[1] ~= ARGV[1] or learn > now + ARGV[3] then
  -- Another server, or one that begins anew, perhaps a clock set back ago: what it may have lost is said again by the nodes before anything is admitted.
  learn = now + ARGV[3]
  redis.call('HSET', KEYS[1], 'run', ARGV[1], 'learn', text(learn))
end
redis.call('HSET', KEYS[1], 'last', text(now))
local node = ARGV[2]
-- Who has not spoken since then is told to.
if now < learn or ARGV[4] ~= text(learn) then return {'learning', text(now), text(math.max(learn - now, 0)), text(learn)} end

-- One subject as it is now. `at`: where its limits stand in ARGV: quota count, quota seconds, burst count, burst seconds (count -1: no such window).
-- `only`: it is looked at, and nothing is changed. When a record may go says for how long it was last counted (see `take` and `keep`): where that is
-- another length than the one in force, what has passed under either is over.
local look = function(first, at, only)
  local s = {quota = KEYS[first], log = KEYS[first + 1], sum = KEYS[first + 2], used = 0, own = 0, total = 0, only = only}
  s.qn, s.qs, s.bn, s.bs = tonumber(ARGV[at]), ARGV[at + 1] * 1000000, tonumber(ARGV[at + 2]), ARGV[at + 3] * 1000000
  if s.qn >= 0 then
    local all = redis.call('HGETALL', s.quota)
    for i = 1, #all, 2 do
      if all[i] == 'opened' then s.opened = tonumber(all[i + 1]) else s.used = s.used + all[i + 1] end
      if all[i] == node then s.own = tonumber(all[i + 1]) end
    end
    if s.opened and s.opened > now then
      s.opened = now - now % 1000000
      if not only then
        redis.call('HSET', s.quota, 'opened', text(s.opened))
        redis.call('PEXPIREAT', s.quota, text((s.opened + s.qs) / 1000 + 1000))
      end
    end
    if s.opened then
      local ends, before = s.opened + s.qs, redis.call('PEXPIRETIME', s.quota) * 1000 - 1000000
      local other = before > 0 and math.abs(before - ends) > 1000
      if now >= ends or other and now >= before then
        if not only then redis.call('DEL', s.quota) end
        s.opened, s.used, s.own = nil, 0, 0
      elseif other and not only then
        redis.call('PEXPIREAT', s.quota, text(ends / 1000 + 1000))
      end
    end
  end
  if s.bn >= 0 then
    local span, last = s.bs, redis.call('ZRANGE', s.log, -1, -1, 'WITHSCORES')[2]
    if last and tonumber(last) > now + 15000000 and not only then
      -- No lease ends so late: it was another time that said so.
      last = text(now + 15000000)
      for _, member in ipairs(redis.call('ZRANGEBYSCORE', s.log, '(' .. last, '+inf')) do redis.call('ZADD', s.log, last, member) end
    elseif last then
      local before = redis.call('PEXPIRETIME', s.log) * 1000 - 1000000 - last
      if before > 0 then span = math.min(span, math.floor(before / 1000000 + 0.5) * 1000000) end
    end
    s.over = now - span
    local gone = redis.call('ZRANGEBYSCORE', s.log, '-inf', text(s.over))
    local less = 0
    for _, member in ipairs(gone) do less = less + string.match(member, '^(%d+)') end
    if #gone > 0 and not only then redis.call('ZREMRANGEBYSCORE', s.log, '-inf', text(s.over)) end
    if redis.call('EXISTS', s.log) == 1 then
      local kept = redis.call('GET', s.sum)
      if not kept then
        kept = only and 0 or less
        for _, member in ipairs(redis.call('ZRANGE', s.log, 0, -1)) do kept = kept + string.match(member, '^(%d+)') end
      end
      s.total = kept - less
    end
  end
  return s
end

-- Microseconds until its windows have room for `cost`; 0 when they have.
local wait_for = function(s, cost)
  local wait = 0
  if s.qn >= 0 and s.used + cost > s.qn then wait = (s.opened or now) + s.qs - now end
  local excess = s.bn >= 0 and s.total + cost - s.bn or 0
  if excess > 0 then
    local found = redis.call('ZRANGE', s.log, 0, math.min(excess, 1000) - 1, 'WITHSCORES')
    local frees = now + s.bs
    for i = 1, #found, 2 do
      excess = excess - string.match(found[i], '^(%d+)')
      if excess <= 0 then frees = found[i + 1] + s.bs break end
    end
    wait = math.max(wait, frees - now)
  end
  return wait
end

local take = function(s, count)
  if s.qn < 0 then return end
  if not s.opened then
    s.opened = now - now % 1000000
    redis.call('HSET', s.quota, 'opened', text(s.opened))
  end
  if count ~= 0 then redis.call('HINCRBY', s.quota, node, text(count)) end
  redis.call('PEXPIREAT', s.quota, text((s.opened + s.qs) / 1000 + 1000))
  s.used, s.own = s.used + count, s.own + count
end

-- Puts the log's sum beside it, and says until when both matter.
local keep = function(s)
  if s.bn < 0 then return end
  local last = redis.call('ZRANGE', s.log, -1, -1, 'WITHSCORES')
  s.full = last[2] and tonumber(last[2]) > s.over and last[2] + s.bs - now or 0
  if s.only then return end
  if not last[2] then return redis.call('DEL', s.sum) end
  local ends = text((now + s.full) / 1000 + 1000)
  redis.call('PEXPIREAT', s.log, ends)
  redis.call('SET', s.sum, text(s.total), 'PXAT', ends)
end

-- What the headers say: left, opened, left of the burst, until that is full, whether a window is open; and what others have used of it.
local tell = function(answer, s)
  answer[#answer + 1] = text(math.max(s.qn - s.used, 0))
  answer[#answer + 1] = text(s.opened or now - now % 1000000)
  answer[#answer + 1] = text(math.max(s.bn - s.total, 0))
  answer[#answer + 1] = text(math.max(s.full or 0, 0))
  answer[#answer + 1] = s.opened and '1' or '0'
  answer[#answer + 1] = text(math.max(s.used - s.own, 0))
end
