-- Prelude of every script: the time.

-- Return the time by Redis's clock, in seconds since the epoch.
local function seconds()
  local time = redis.call("TIME")
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

