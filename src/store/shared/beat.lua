-- A sign of life of one node; answers with the time, what the store is now, and all nodes.
-- KEYS: nodes, facts, log
-- ARGV: node ('' only looks), what it says of itself in one text (last change in force there, longest time it serves without the store in ms, 1 if
--       it is held up, name, name of that change), what the store was at its last sign of life ('' for its first), run id of the server, and what it knew of
--       the others (node, text)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local facts = redis.call('HMGET', KEYS[2], 'seq', 'head', 'filling')
local is = ARGV[4] .. ' ' .. (facts[3] or '')
if ARGV[1] ~= '' then
  if ARGV[3] == '' then
    -- It begins: an earlier run of it is over.
    local id = string.match(ARGV[1], '^[^.]*')
    for _, known in ipairs(redis.call('HKEYS', KEYS[1])) do
      if string.match(known, '^[^.]*') == id then redis.call('HDEL', KEYS[1], known) end
    end
  elseif ARGV[3] ~= is then
    -- Another server, or one that was emptied: whom it forgot is there until it leaves.
    for at = 5, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[at], ARGV[at + 1]) end
  end
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now) .. ' ' .. ARGV[2])
end
local answer = {string.format('%.0f', now), is}
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
