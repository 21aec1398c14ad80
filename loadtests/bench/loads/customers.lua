-- A few hundred customers who ask again and again: heads repeat. Arguments: path, file of bodies, header lines.
local report = require("report")
local requests, at = {}, 0

function init(args)
  local bodies, headers = report.bodies(args[2]), report.headers(args, 3)
  for customer = 1, 256 do
    headers["x-customer-id"] = "customer-" .. customer
    requests[customer] = wrk.format("POST", args[1], headers, bodies[(customer - 1) % #bodies + 1])
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

done = report.done
