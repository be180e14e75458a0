-- Remove models from the catalogue that no live worker has in its repository.
-- KEYS[1]: the models.  KEYS[2]: the workers.  KEYS[3]: the leases.
-- ARGV[1]: "now", or "old" for those only that no worker has announced for a day and for which nothing waits.
-- ARGV[2]: the separator of kombu's priority steps.  ARGV, 1 a model from ARGV[3]: its name.
-- Reply, an array a model: {"withdrawn"}, {"unknown"}, {"kept", the names of the live workers that have it, ...}.
-- Invariant: a model that a live worker has stays.
local DAY_S = 86400
local now = seconds()

-- Return whether a worker has a model. A worker of an earlier version does not announce its repository: it has what it serves.
local function has_in_repository(worker, name)
  if type(worker.repository) ~= "table" then
    return (worker.models or {})[name] ~= nil
  end
  for _, each in ipairs(worker.repository) do
    if each == name then
      return true
    end
  end
  return false
end

local alive = {}
for _, raw in ipairs(redis.call("HVALS", KEYS[2])) do
  local ok, worker = pcall(cjson.decode, raw)
  if ok and worker.seen_at and now - worker.seen_at < 15 then
    local until_ = worker.identity and redis.call("ZSCORE", KEYS[3], worker.identity)
    if not worker.identity or (until_ and tonumber(until_) > now) then
      alive[#alive + 1] = worker
    end
  end
end

local function is_old(name, info)
  local seen_at = string.match(info, '"seen_at":([%d%.]+)}$')
  if not seen_at then -- as an earlier version announced it
    redis.call("HSET", KEYS[1], name, string.sub(info, 1, -2) .. string.format(',"seen_at":%.4f}', now))
    return false
  end
  local queue = QUEUE .. name
  local lists = {queue, TENANTS .. queue}
  for _, step in ipairs({"3", "6", "9"}) do
    lists[#lists + 1] = queue .. ARGV[2] .. step
  end
  return now - tonumber(seen_at) > DAY_S and redis.call("EXISTS", unpack(lists)) == 0
end

local reply = {}
for at = 3, #ARGV do
  local name = ARGV[at]
  local info, answer = redis.call("HGET", KEYS[1], name), {"unknown"}
  if info then
    answer = {"kept"}
    for _, worker in ipairs(alive) do
      if has_in_repository(worker, name) then
        answer[#answer + 1] = worker.name
      end
    end
    if #answer == 1 and (ARGV[1] == "now" or is_old(name, info)) then
      redis.call("HDEL", KEYS[1], name)
      answer = {"withdrawn"}
    end
  end
  reply[#reply + 1] = answer
end
return reply
