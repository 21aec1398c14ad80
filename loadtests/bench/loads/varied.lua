-- Every head is different: customer, request id, trace and agent change with each request. Arguments as in customers.lua.
local report = require("report")
local first, last, count = "", "", 0
local agents, format, random = {}, string.format, math.random

function init(args)
  local bodies, headers = report.bodies(args[2]), report.headers(args, 3)
  headers["x-customer-id"] = "@@"
  local whole = wrk.format("POST", args[1], headers, bodies[1])
  local from, to = whole:find("x-customer-id: @@\r\n", 1, true)
  first, last = whole:sub(1, from - 1), whole:sub(to + 1)
  for version = 1, 40 do
    agents[version] = format("client/%d.%d (%s)", version, version * 7 % 10, ("x"):rep(version % 9))
  end
end

function request()
  count = count + 1
  return format("%sx-customer-id: customer-%d\r\nx-request-id: %08x%08x\r\ntraceparent: 00-%08x%08x%08x%08x-%08x00000000-01\r\nuser-agent: %s\r\n%s",
    first, random(1, 1000000), count, random(0, 2147483647), random(0, 2147483647), count, random(0, 2147483647),
    count, count, agents[count % 40 + 1], last)
end

done = report.done
