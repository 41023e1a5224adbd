-- For wrk: arguments are a path, a file with one key a line, "random" or after how many keys to begin with them in turn, a file
-- where the number of requests is written, and after how many each time. Each request has a key of the file.
local keys, count, at, random, front, back = {}, 0, 0, false, "", ""
local sent, counter, step = 0, nil, 1

function init(args)
  for key in io.lines(args[2]) do
    count = count + 1
    keys[count] = key
  end
  random, at = args[3] == "random", tonumber(args[3]) or 0
  counter = io.open(args[4], "w")
  step = tonumber(args[5])
  front = "GET " .. args[1] .. " HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nUser-Agent: wrk\r\nX-API-Key: "
  back = "\r\n\r\n"
end

function request()
  sent = sent + 1
  if sent % step == 0 then
    counter:seek("set", 0)
    counter:write(sent)
    counter:flush()
  end
  if random then
    at = math.random(count)
  else
    at = at % count + 1
  end
  return front .. keys[at] .. back
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('JSON {"all": %d, "bytes": %d, "seconds": %f, "refused": %d, "broken": %d, "p50": %d, "p99": %d}\n',
    summary.requests, summary.bytes, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, latency:percentile(50), latency:percentile(99)))
end
