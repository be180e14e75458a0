-- Count what is before a request in its tenant's lists, and how much waits of other tenants of its queue.
-- ARGV[1]: the separator of kombu's priority steps.  ARGV[2]: the queue.  ARGV[3]: the tenant, "" for the stock lists.
-- ARGV[4]: the request's step, 0, 3, 6 or 9.
-- Reply: {what has been taken from its list, requests in its list, rows there, requests in the more urgent lists, rows there,
--   how many share the queue beyond those that follow, the rows that wait of each of at most 16 others that share it, ...}.
-- Invariant: nothing is changed, and the cost does not grow with what waits.
local TENANTS_MAX = 16

local function list_of(tenant, step)
  if tenant ~= "" then
    return ARGV[2] .. ARGV[1] .. step .. ARGV[1] .. tenant
  end
  return step == "0" and ARGV[2] or ARGV[2] .. ARGV[1] .. step
end

local function requests_and_rows(list)
  local requests = redis.call("LLEN", list)
  if requests == 0 then
    return 0, 0
  end
  return requests, requests + math.max(0, tonumber(redis.call("HGET", LIST_COUNTS, "rows " .. list) or 0))
end

local function rows_of(tenant)
  local all = 0
  for _, step in ipairs({"0", "3", "6", "9"}) do
    local _, rows = requests_and_rows(list_of(tenant, step))
    all = all + rows
  end
  return all
end

local own_list = list_of(ARGV[3], ARGV[4])
local length, rows = requests_and_rows(own_list)
local urgent, urgent_rows = 0, 0
for _, step in ipairs({"0", "3", "6"}) do
  if tonumber(step) < tonumber(ARGV[4]) then
    local more, more_rows = requests_and_rows(list_of(ARGV[3], step))
    urgent, urgent_rows = urgent + more, urgent_rows + more_rows
  end
end
local reply = {tonumber(redis.call("HGET", LIST_COUNTS, own_list) or 0), length, rows, urgent, urgent_rows, 0}

local rotation = TENANTS .. ARGV[2]
local sharing = redis.call("ZRANGE", rotation, 0, TENANTS_MAX)
local stock = ARGV[3] ~= "" and rows_of("") or 0
if stock > 0 then
  reply[#reply + 1] = stock
end
for _, tenant in ipairs(sharing) do
  if tenant ~= ARGV[3] and tenant ~= "" and #reply < 6 + TENANTS_MAX then
    reply[#reply + 1] = rows_of(tenant)
  end
end
reply[6] = math.max(0, redis.call("ZCARD", rotation) - #sharing)
return reply
