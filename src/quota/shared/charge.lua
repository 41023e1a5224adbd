-- Charges one request to every window of its subjects, or to none.
-- KEYS: run; then per subject its quota window, its burst log, the sum of that log
-- ARGV: as begin.lua says; then cost, 1 to charge or 0 to look, a name for this charge, then the limits of each subject
local cost, wait, subjects = tonumber(ARGV[5]), 0, {}
for index = 1, (#KEYS - 1) / 3 do
  local s = look(index * 3 - 1, 4 + index * 4, ARGV[6] ~= '1')
  wait = math.max(wait, wait_for(s, cost))
  subjects[index] = s
end
local answer = {wait == 0 and 'admitted' or 'refused', text(now), text(wait), text(learn)}
for _, s in ipairs(subjects) do
  if wait == 0 and ARGV[6] == '1' then
    take(s, cost)
    if s.bn >= 0 then
      s.total = s.total + cost
      redis.call('ZADD', s.log, text(now), cost .. ':' .. node .. ':' .. ARGV[7])
    end
  end
  keep(s)
  tell(answer, s)
end
return answer
