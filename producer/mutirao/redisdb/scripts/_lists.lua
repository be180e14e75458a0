-- Prelude of the scripts that put requests into a queue's lists or take them out: whose a list is, who takes turns, what each counts.
-- The stock lists of a queue are kombu's own, one a priority step; a tenant's requests wait in lists of the tenant's own beside them.
-- The ring, `mutirao:tenants:<queue>`, holds the tenants that wait, each with what it has been served; "" among them stands for the
--   stock lists. Without tenants there is no ring, and nothing is shared.
-- `mutirao:lines` counts by list what has been taken from its head, so that a request's place is its own number less that count; and
--   by "rows " and the list the rows of what waits beyond one a request. What stock programs take or purge is not counted: places are
--   then a little late, and rows are too many until requests of several rows come to a list that is empty.

local function parts_of_list(key)
  return string.match(key, "^([^\6]*)"), string.match(key, "^[^\6]*\6\22%d+\6\22(.+)$") or ""
end

-- Whoever joins comes after one turn of who was served least: to come and go is no way to go before those who stay.
local function join(queue, tenant)
  local ring = TENANTS .. queue
  local least = redis.call("ZRANGE", ring, 0, 0, "WITHSCORES")[2]
  redis.call("ZADD", ring, "NX", least and tonumber(least) + 1 or 0, tenant)
end

-- Note that something waits in a list.
local function noted(key, more_rows)
  local queue, tenant = parts_of_list(key)
  if tenant ~= "" then
    join(queue, tenant)
  end
  if more_rows ~= 0 then
    redis.call("HINCRBY", LINES, "rows " .. key, more_rows)
  end
end

-- The rows of a request beyond one, as our own client says them.
local function more_rows_of(envelope)
  local _, last = string.find(envelope, '"mutirao":{"rows":', 1, true)
  local rows = last and tonumber(string.match(envelope, "^%d+", last + 1))
  return rows and rows > 1 and rows - 1 or 0
end

-- Put a request to the end of a line, and wake somebody.
local function put(key, envelope)
  noted(key, more_rows_of(envelope))
  redis.call("LPUSH", key, envelope)
  local bell = BELL .. parts_of_list(key)
  if redis.call("LLEN", bell) < 8 then
    redis.call("LPUSH", bell, "1")
  end
end

-- Put a request back to the head of its line, as if it had never been taken: last, so that it is not there twice where Redis stops the
-- script before.
local function put_back(key, envelope)
  redis.call("HINCRBY", LINES, key, -1)
  noted(key, more_rows_of(envelope))
  redis.call("RPUSH", key, envelope)
end
