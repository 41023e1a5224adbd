-- A sign of life of one node; answers with the time and all nodes.
-- KEYS: nodes   ARGV: id, last change in force there, longest time it serves without the store (ms), name
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now) .. ' ' .. ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
end
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local heard, lasts = string.match(all[at + 1], '^(%d+) %d+ (%d+) ')
  -- By then it serves nobody any more.
  if not heard or heard + lasts < now then redis.call('HDEL', KEYS[1], all[at]) end
end
return {string.format('%.0f', now), unpack(all)}
