-- Prelude of the scripts that put requests into a queue's lists or take them out: whose a list is, the rotation of tenants, the counts.
-- The stock lists of a queue are kombu's own, one a priority step; a tenant's requests wait in lists of the tenant's own.
-- The tenant rotation, `mutirao:tenants:<queue>`, holds the tenants that wait, each with what it has been served; "" stands for the
--   stock lists. Without tenants there is no rotation, and nothing is shared.
-- `mutirao:lines` counts by list what has been taken from its head, so that a request's position is its own number less that count.
--   By "rows " and the list it counts the rows of what waits beyond one a request. What stock programs take or purge is not counted:
--   positions are then a little late, and rows are too many until requests of several rows come to a list that is empty.

local function parts_of_list(key)
  return string.match(key, "^([^\6]*)"), string.match(key, "^[^\6]*\6\22%d+\6\22(.+)$") or ""
end

-- Add a tenant to the rotation of a queue. It starts one turn after the tenant that was served least, so that leaving and joining
-- again gains nothing.
local function join_rotation(queue, tenant)
  local rotation = TENANTS .. queue
  local least_served = redis.call("ZRANGE", rotation, 0, 0, "WITHSCORES")[2]
  redis.call("ZADD", rotation, "NX", least_served and tonumber(least_served) + 1 or 0, tenant)
end

-- Count what waits in a list, and add its tenant to the rotation.
local function count_waiting(key, extra_rows)
  local queue, tenant = parts_of_list(key)
  if tenant ~= "" then
    join_rotation(queue, tenant)
  end
  if extra_rows ~= 0 then
    redis.call("HINCRBY", LIST_COUNTS, "rows " .. key, extra_rows)
  end
end

-- Return the rows of a request beyond one, as this project's client states them.
local function extra_rows_of(envelope)
  local _, last = string.find(envelope, '"mutirao":{"rows":', 1, true)
  local rows = last and tonumber(string.match(envelope, "^%d+", last + 1))
  return rows and rows > 1 and rows - 1 or 0
end

-- Put a request at the end of a list, and push a wakeup token for the queue's workers.
local function enqueue(key, envelope)
  count_waiting(key, extra_rows_of(envelope))
  redis.call("LPUSH", key, envelope)
  local wakeup = WAKEUP .. parts_of_list(key)
  if redis.call("LLEN", wakeup) < 8 then
    redis.call("LPUSH", wakeup, "1")
  end
end

-- Put a request back to the head of its list, as if it had never been taken. The push comes last: where Redis stops the script
-- before, the request is not there twice.
local function return_to_head(key, envelope)
  redis.call("HINCRBY", LIST_COUNTS, key, -1)
  count_waiting(key, extra_rows_of(envelope))
  redis.call("RPUSH", key, envelope)
end
