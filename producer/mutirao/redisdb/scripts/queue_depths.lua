-- Count what waits in queues: requests and rows of each tenant, and since when the oldest waits.
-- ARGV[1]: the separator of kombu's priority steps.  ARGV[2]: the prefix of a record's key.  ARGV, 1 a queue from ARGV[3]: its name.
-- Reply: {now, {queue, tenant ("" for the stock lists), requests, rows, {when the request at a list's head was queued ("" where
--   no record says), its id, ...}, {rows of each priority step, the most urgent first}}, ...}; the stock lists of every queue, and
--   each tenant that waits in it.
-- Invariant: nothing is changed.
local reply = {string.format("%.6f", seconds())}

local function head_of(key)
  local envelope = redis.call("LINDEX", key, -1)
  local id = envelope and string.match(envelope, '"id":%s*"([^"]*)"') or ""
  local document = id ~= "" and redis.call("GET", ARGV[2] .. id)
  return document and string.match(document, '.*"job":{.-"queued_at":([%d%.]+)') or "", id
end

local function add_counts(queue, tenant)
  local requests, rows, heads, steps = 0, 0, {}, {}
  for _, step in ipairs({"0", "3", "6", "9"}) do
    local key = (tenant ~= "" or step ~= "0") and queue .. ARGV[1] .. step or queue
    key = tenant == "" and key or key .. ARGV[1] .. tenant
    local length = redis.call("LLEN", key)
    steps[#steps + 1] = length
    if length > 0 then
      requests = requests + length
      steps[#steps] = length + math.max(0, tonumber(redis.call("HGET", LIST_COUNTS, "rows " .. key) or 0))
      heads[#heads + 1], heads[#heads + 2] = head_of(key)
    end
  end
  for _, each in ipairs(steps) do
    rows = rows + each
  end
  reply[#reply + 1] = {queue, tenant, requests, rows, heads, steps}
end

for at = 3, #ARGV do
  add_counts(ARGV[at], "")
  for _, tenant in ipairs(redis.call("ZRANGE", TENANTS .. ARGV[at], 0, -1)) do
    if tenant ~= "" then
      add_counts(ARGV[at], tenant)
    end
  end
end
return reply
