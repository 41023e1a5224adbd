-- When keys were last used, by whichever node: a time before the one that stands there changes nothing.
-- KEYS: keys whose ids begin alike
-- ARGV: key, unix seconds, and so on
for at = 1, #ARGV, 2 do
  local known = tonumber(redis.call('HGET', KEYS[1], ARGV[at]) or 0)
  if known < tonumber(ARGV[at + 1]) then redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) end
end
return 1
