-- A sign of life of one node; answers with the time, what the store is now, whether any node was heard since it began, and all nodes.
-- KEYS: nodes, facts, log, when the last sign of life was given
-- ARGV: node ('' only looks; its id, a point, where its directory is in eight letters, which run), what it says of itself in one text (last change in
--       force there, longest time it serves without the store in ms, 1 if it is held up, name, name of that change), what the store was at its last
--       sign of life ('' for its first), run id of the server, and what it knew of the others (node, text)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local text = function(number) return string.format('%.0f', number) end
local facts = redis.call('HMGET', KEYS[2], 'seq', 'head', 'filling')
local is = ARGV[4] .. ' ' .. (facts[3] or '')
if ARGV[1] ~= '' and ARGV[3] == '' then
  -- It begins: an earlier run of it is over, if it was in the same directory, which one process holds, or is silent. Else it may be another's.
  local id, place = string.match(ARGV[1], '^([^.]*)%.?(.?.?.?.?.?.?.?.?)')
  local all = redis.call('HGETALL', KEYS[1])
  for at = 1, #all, 2 do
    local of, where = string.match(all[at], '^([^.]*)%.?(.?.?.?.?.?.?.?.?)')
    local heard = tonumber(string.match(all[at + 1], '^%d+') or 0)
    if of == id and (where == place or now - heard >= 10000) then redis.call('HDEL', KEYS[1], all[at]) end
  end
end
local last = tonumber(redis.call('GET', KEYS[4]) or now)
if now < last or now > last + 10000 then
  -- The clock of the store was set, or nobody was there to see how it went on: there is a sign of life each second while one node lives. Nobody is there
  -- for longer by that, and nobody gone.
  local all = redis.call('HGETALL', KEYS[1])
  for at = 1, #all, 2 do
    local heard, rest = string.match(all[at + 1], '^(%d+)( .*)$')
    if heard then redis.call('HSET', KEYS[1], all[at], text(heard + now - last) .. rest) end
  end
end
if ARGV[1] == '' then
  redis.call('SET', KEYS[4], text(now), 'XX')
else
  redis.call('SET', KEYS[4], text(now))
  if ARGV[3] ~= '' and ARGV[3] ~= is then
    -- Another server, or one that was emptied: whom it forgot is there until it leaves.
    for at = 5, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[at], ARGV[at + 1]) end
  end
  redis.call('HSET', KEYS[1], ARGV[1], text(now) .. ' ' .. ARGV[2])
end
local answer = {text(now), is, redis.call('EXISTS', KEYS[4]) == 1 and '1' or '0'}
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local heard, applied, lasts, head = string.match(all[at + 1], '^(%d+) (%d+) (%d+) [01] %S+ (%S*)$')
  if not heard or heard + lasts < now then
    -- By then it serves nobody any more.
    redis.call('HDEL', KEYS[1], all[at])
  else
    -- A number says nothing where it is of another history than the store's.
    local ours = applied == facts[1] and head == facts[2]
    if not ours then
      local line = redis.call('XRANGE', KEYS[3], applied .. '-0', applied .. '-0')
      ours = line[1] ~= nil and line[1][2][2] == head
    end
    answer[#answer + 1] = all[at]
    answer[#answer + 1] = all[at + 1]
    answer[#answer + 1] = ours and '1' or '0'
  end
end
return answer
