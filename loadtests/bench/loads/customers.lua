-- A few hundred customers who ask again and again: heads repeat. Arguments: path, file of bodies, header lines.
-- A path with {n/1000} in it means so many paths, {n} from 0 on, asked in turn.
local report = require("report")
local requests, at = {}, 0

function init(args)
  local bodies, headers = report.bodies(args[2]), report.headers(args, 3)
  local paths = tonumber(args[1]:match("{n/(%d+)}") or 1)
  for customer = 1, math.max(256, paths) do
    headers["x-customer-id"] = "customer-" .. customer
    local path = args[1]:gsub("{n/%d+}", tostring((customer - 1) % paths))
    requests[customer] = wrk.format("POST", path, headers, bodies[(customer - 1) % #bodies + 1])
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

done = report.done
