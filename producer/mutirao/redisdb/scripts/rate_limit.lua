-- Admit calls of an API key that has limits, each as a whole or not at all; or return what was admitted.
-- KEYS[1]: the theoretical arrival time of the key's rate.  KEYS[2]: its jobs in flight, by when they were admitted, or last found there.
-- KEYS[3]: exists while the records of those were checked a moment ago.
-- ARGV[1]: "admit", "return".  ARGV[2]: requests a second, 0 for no such limit.  ARGV[3]: the burst: requests admitted at once.
-- ARGV[4]: how many jobs may be in flight, 0 for no such limit.  ARGV[5]: how long their records are kept, in seconds.
-- ARGV[6]: the prefix of a record's key.
-- From ARGV[7], one call after another: its number of requests; its number of ids; the ids, none where jobs are not counted.
-- Reply, one a call: {"admitted", places of the ids that were in flight before}, {"rate", seconds until there is room},
--   {"in flight", how many are, seconds until a retry can help}; with "return" nothing.
-- Invariant: a job is in flight until its record says that it has ended, or is gone. Ends are not announced here: when the limit is
--   reached the records are checked, those first that were not for longest, and only so many that Redis is not held up.
-- A call that is sent again takes its share of the rate twice, and counts no job twice.
-- Source of the rate: the generic cell rate algorithm (ITU-T I.371), whose whole state is one moment.
local GRACE_S = 60 -- so long after its admission a job without a record counts as never submitted
local CHECK_MAX = 1000 -- jobs in one check
local CHECK_REST_MS = 0.1 -- the pause after a check, a job: checking one costs some 4 us, so no key takes much of Redis's time
local CLOCK_S = 0.000001 -- the resolution of a time in a double
local rate, burst, max_in_flight, kept_s = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local now = seconds()

local function arrival_time()
  return math.max(now, rate > 0 and tonumber(redis.call("GET", KEYS[1]) or 0) or 0)
end

local function set_arrival_time(moment)
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

local function drop_ended()
  local jobs = redis.call("ZRANGE", KEYS[2], 0, CHECK_MAX - 1, "WITHSCORES")
  local all = redis.call("ZCARD", KEYS[2]) * 2 == #jobs
  redis.call("SET", KEYS[3], "1", "PX", math.max(1, math.ceil(#jobs / 2 * CHECK_REST_MS)))
  for at = 1, #jobs, 2 do
    local id = jobs[at]
    local ended, recorded = has_ended(id, tonumber(jobs[at + 1]))
    if ended then
      redis.call("ZREM", KEYS[2], id)
    elseif recorded and not all then
      redis.call("ZADD", KEYS[2], now, id)
    end
  end
end

local function jobs_in_flight(first, last)
  local admitted_before, new = {"admitted"}, {}
  for at = first, last do
    if redis.call("ZSCORE", KEYS[2], ARGV[at]) then
      admitted_before[#admitted_before + 1] = at - first + 1
    else
      new[#new + 1] = ARGV[at]
    end
  end
  local jobs = redis.call("ZCARD", KEYS[2])
  if jobs + #new > max_in_flight and redis.call("EXISTS", KEYS[3]) == 0 then
    drop_ended()
    jobs = redis.call("ZCARD", KEYS[2])
  end
  return admitted_before, new, jobs
end

local function admit(count, first, last)
  local moment = arrival_time() + (rate > 0 and count / rate or 0)
  local wait = rate > 0 and moment - now - burst / rate or 0
  if wait > CLOCK_S then
    return {"rate", string.format("%.6f", wait)}
  end
  if last >= first then
    local admitted_before, new, jobs = jobs_in_flight(first, last)
    if jobs + #new > max_in_flight then
      return {"in flight", jobs, string.format("%.3f", math.max(1, redis.call("PTTL", KEYS[3]) / 1000))}
    end
    for _, id in ipairs(new) do
      redis.call("ZADD", KEYS[2], now, id)
    end
    if redis.call("TTL", KEYS[2]) < kept_s + GRACE_S then
      redis.call("EXPIRE", KEYS[2], math.ceil(kept_s + GRACE_S))
    end
    set_arrival_time(moment)
    return admitted_before
  end
  set_arrival_time(moment)
  return {"admitted"}
end

local function return_admitted(count, first, last)
  set_arrival_time(arrival_time() - (rate > 0 and count / rate or 0))
  for at = first, last do
    redis.call("ZREM", KEYS[2], ARGV[at])
  end
end

local reply, at = {}, 7
while at <= #ARGV do
  local count, first = tonumber(ARGV[at]), at + 2
  local last = first + tonumber(ARGV[at + 1]) - 1
  reply[#reply + 1] = ARGV[1] == "admit" and admit(count, first, last) or return_admitted(count, first, last)
  at = last + 1
end
return reply
