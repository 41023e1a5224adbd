-- Ends a node's lease of one subject, and gives it another with what is left of the old one and more.
--
-- A lease is one entry of the burst log, `count:node:name`, that counts as if all of it were used at the very end of the lease. When the node reports,
-- what was used moves back to when that was, and what comes back is taken out. So no permit ever counts for less long than its use does.
-- KEYS: run, quota window, burst log, the sum of that log, the nodes that ask
-- ARGV: as begin.lua says; then the limits, the least that is of use, how much is wanted beside what is kept, requests a second here, what requests that wait need,
--       a name for the new lease; the old one's entry ('' for none), the quota window it is of, what is kept of it, what comes back, then pairs: used, when
local s = look(2, 5)
local least, want, rate, waiting, name = tonumber(ARGV[9]), tonumber(ARGV[10]), math.max(tonumber(ARGV[11]), 0.01), tonumber(ARGV[12]), ARGV[13]
local old, window, kept, back = ARGV[14], ARGV[15], tonumber(ARGV[16]), tonumber(ARGV[17])
-- What is kept of a window that has ended was used before it did.
local ended = s.qn >= 0 and kept > 0 and (not s.opened or text(s.opened) ~= window)
if s.bn >= 0 and old ~= '' then
  local known = redis.call('ZREM', s.log, old) == 1
  if known then
    for i = 18, #ARGV, 2 do
      if ARGV[i + 1] + s.bs > now then
        redis.call('ZADD', s.log, ARGV[i + 1], ARGV[i] .. ':' .. node .. ':' .. name .. '.' .. i)
      else
        s.total = s.total - ARGV[i]
      end
    end
    s.total = s.total - back
  else
    s.total = s.total + kept
  end
  if ended then redis.call('ZADD', s.log, text(now), kept .. ':' .. node .. ':' .. name .. '.k') end
end
if s.qn >= 0 and back > 0 and s.opened and text(s.opened) == window then take(s, -math.min(back, s.used)) end
if ended then kept = 0 end

-- How much there is for how many.
local rates, active = rate, 1
if want > 0 then
  local all = redis.call('HGETALL', KEYS[5])
  for i = 1, #all, 2 do
    local asks, seen = string.match(all[i + 1], '^(%S+) (%S+)$')
    if now - seen > 60000000 then
      redis.call('HDEL', KEYS[5], all[i])
    elseif all[i] ~= node and now - seen <= 15000000 then
      rates, active = rates + asks, active + 1
    end
  end
  redis.call('HSET', KEYS[5], node, string.format('%.2f %.0f', rate, now))
  redis.call('PEXPIREAT', KEYS[5], text(now / 1000 + 60000))
end
local by_quota, by_burst = s.qn >= 0 and s.qn - s.used or math.huge, s.bn >= 0 and s.bn - s.total or math.huge
local free = math.min(by_quota, by_burst)
local part = math.max(0, math.min(s.bn >= 0 and by_burst / s.bn or 1, s.qn >= 0 and 2 * by_quota / s.qn or 1, 1))
local span = s.bn >= 0 and s.bs or s.qs
local longest = math.min(10000000, span / 6)
local lasts = math.max(longest / 10, 1.5 * math.max(longest / 20, math.min(longest, span * part)))
local given = 0
-- A window is opened by a request, not by the look ahead to the next.
if want > 0 and free >= least and (waiting > 0 or s.qn < 0 or s.opened) then
  local share = free * rate / rates
  if active > 1 then share = share * (part > 0.02 and 0.5 or 2) end
  local cap = math.max(1, math.floor(math.min(s.qn >= 0 and s.qn or math.huge, s.bn >= 0 and s.bn or math.huge) / 8))
  given = math.max(least, waiting, math.min(want, math.ceil(share), cap - kept))
  given = math.min(given, free)
end
if given > 0 then take(s, given) end
local held = kept + given
if s.opened then lasts = math.min(lasts, s.opened + s.qs - now) end
local ends = now + math.floor(lasts)
if s.bn >= 0 and held > 0 then
  redis.call('ZADD', s.log, text(ends), text(held) .. ':' .. node .. ':' .. name)
  s.total = s.total + given
end
keep(s)
local wait, retry = 0, 0
if want > 0 and given == 0 then
  wait = wait_for(s, least)
  retry = math.min(wait, 5000000)
  if by_quota >= least and s.bn >= 0 then
    local first = redis.call('ZRANGE', s.log, 0, 0, 'WITHSCORES')
    retry = first[2] and math.max(first[2] + s.bs - now, 0) or 0
    -- What others hold may come back any time.
    if s.full > s.bs then retry = math.min(retry, longest / 10) end
  end
  retry = math.max(retry, longest / 100 * math.min(math.max(active / 2, 1), 20))
  if wait > 0 then retry = math.min(retry, wait) end
end
local answer = {'leased', text(now), text(wait), text(learn), text(given), text(kept), text(ends), text(retry), string.format('%.4f', part)}
tell(answer, s)
return answer
