-- What the scripts share: bodies and headers from arguments, and what a run saw as one line of JSON.
local report = {}

function report.done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'report {"requests": %d, "microseconds": %d, "not_ok": %d, "socket_errors": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end

-- A file of bodies: before each its length in decimal and a newline.
function report.bodies(path)
  local file = assert(io.open(path, "rb"))
  local found = {}
  while true do
    local length = file:read("*l")
    if not length or length == "" then break end
    found[#found + 1] = file:read(tonumber(length))
  end
  file:close()
  return found
end

-- "name: value" lines from one argument on.
function report.headers(args, from)
  local headers = {}
  for index = from, #args do
    local name, value = args[index]:match("^([^:]+):%s*(.*)$")
    headers[name] = value
  end
  return headers
end

return report
