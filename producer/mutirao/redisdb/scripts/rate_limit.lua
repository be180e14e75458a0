-- Admit calls of an API key that has limits, each as a whole or not at all; or give back what was admitted.
-- KEYS[1]: until when the key's rate is spoken for.  KEYS[2]: its jobs in flight, by when they were admitted, or last found there.
-- KEYS[3]: there while those were looked at a moment ago.
-- ARGV[1]: "admit", "return".  ARGV[2]: requests a second, 0 for no such limit.  ARGV[3]: how many of them at once.
-- ARGV[4]: how many jobs may be in flight, 0 for no such limit.  ARGV[5]: how long their records are kept, in seconds.
-- ARGV[6]: what a record's key begins with.
-- From ARGV[7], one call after another: how many requests it has; how many ids follow; the ids, none where jobs are not counted.
-- Reply, one a call: {"admitted", places of the ids that were in flight before}, {"rate", seconds until there is room},
--   {"in flight", how many are, seconds until it is worth another try}; with "return" nothing.
-- Invariant: a job is in flight until its record says that it has ended, or is gone. Nobody tells of each end: when the limit is
--   reached the records are looked at, those first that were not for longest, so that no look stops Redis for long.
-- A call that is sent again takes its share of the rate twice, and counts no job twice.
-- Source of the rate: the generic cell rate algorithm (ITU-T I.371), whose whole state is one moment.
local GRACE_S = 60 -- from its admission until a job without a record was never submitted
local LOOK_MAX = 1000 -- jobs in one look
local LOOK_MS = 0.1 -- the rest after a look, a job: it costs some 4 us, so no key takes much of Redis's time by looking
local CLOCK_S = 0.000001 -- what a double holds of a time
local rate, burst, most, kept = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call("TIME")
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000

local function spoken()
  return math.max(now, rate > 0 and tonumber(redis.call("GET", KEYS[1]) or 0) or 0)
end

local function speak(moment)
  if rate > 0 then
    redis.call("SET", KEYS[1], string.format("%.6f", moment), "PX", math.max(1, math.ceil((moment - now) * 1000)))
  end
end

local function has_ended(id, admitted)
  local status = string.match(redis.call("GETRANGE", ARGV[6] .. id, 0, 31), '^{"status": ?"(%u+)"')
  if not status then
    return admitted + GRACE_S < now, false
  elseif status == "QUEUED" then
    local expires = string.match(redis.call("GET", ARGV[6] .. id), '"expires_at":([%d%.]+)')
    return expires and tonumber(expires) <= now, true
  end
  return status == "SUCCESS" or status == "FAILURE" or status == "REVOKED", true
end

local function look()
  local held = redis.call("ZRANGE", KEYS[2], 0, LOOK_MAX - 1, "WITHSCORES")
  local all = redis.call("ZCARD", KEYS[2]) * 2 == #held
  redis.call("SET", KEYS[3], "1", "PX", math.max(1, math.ceil(#held / 2 * LOOK_MS)))
  for at = 1, #held, 2 do
    local id = held[at]
    local ended, recorded = has_ended(id, tonumber(held[at + 1]))
    if ended then
      redis.call("ZREM", KEYS[2], id)
    elseif recorded and not all then
      redis.call("ZADD", KEYS[2], now, id)
    end
  end
end

local function in_flight(first, last)
  local known, new = {"admitted"}, {}
  for at = first, last do
    if redis.call("ZSCORE", KEYS[2], ARGV[at]) then
      known[#known + 1] = at - first + 1
    else
      new[#new + 1] = ARGV[at]
    end
  end
  local held = redis.call("ZCARD", KEYS[2])
  if held + #new > most and redis.call("EXISTS", KEYS[3]) == 0 then
    look()
    held = redis.call("ZCARD", KEYS[2])
  end
  return known, new, held
end

local function admit(count, first, last)
  local moment = spoken() + (rate > 0 and count / rate or 0)
  local wait = rate > 0 and moment - now - burst / rate or 0
  if wait > CLOCK_S then
    return {"rate", string.format("%.6f", wait)}
  end
  if last >= first then
    local known, new, held = in_flight(first, last)
    if held + #new > most then
      return {"in flight", held, string.format("%.3f", math.max(1, redis.call("PTTL", KEYS[3]) / 1000))}
    end
    for _, id in ipairs(new) do
      redis.call("ZADD", KEYS[2], now, id)
    end
    if redis.call("TTL", KEYS[2]) < kept + GRACE_S then
      redis.call("EXPIRE", KEYS[2], math.ceil(kept + GRACE_S))
    end
    speak(moment)
    return known
  end
  speak(moment)
  return {"admitted"}
end

local function give_back(count, first, last)
  speak(spoken() - (rate > 0 and count / rate or 0))
  for at = first, last do
    redis.call("ZREM", KEYS[2], ARGV[at])
  end
end

local reply, at = {}, 7
while at <= #ARGV do
  local count, first = tonumber(ARGV[at]), at + 2
  local last = first + tonumber(ARGV[at + 1]) - 1
  reply[#reply + 1] = ARGV[1] == "admit" and admit(count, first, last) or give_back(count, first, last)
  at = last + 1
end
return reply
