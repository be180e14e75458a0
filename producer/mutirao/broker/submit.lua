-- Write the QUEUED records of a call and push its envelopes: all of it, or nothing.
-- KEYS, 3 a request: its record, its queue's list, its payload.
-- ARGV[1]: how long a finished record is kept, in seconds.  ARGV[2]: "1" to push, "0" where the queue is on another server.
-- ARGV, 5 a request: the record's JSON without its last two braces, the digest of its content, its deadline in seconds from
--   now, the envelope, the payload ("" for none).
-- Reply: {"queued", now, flag a request: 1 new, 0 already known by this very content}, or {"taken", index} and nothing written.
-- Invariant: a record's key is written once by this script, so a call that is sent again queues nothing twice.
local time = redis.call("TIME")
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local seen, reply = {}, {"queued", string.format("%.4f", now)}

for i = 1, #KEYS / 3 do
  local record, digest = KEYS[3 * i - 2], ARGV[5 * i - 1]
  local known = seen[record]
  if not known then
    local document = redis.call("GET", record)
    if document then
      local ok, decoded = pcall(cjson.decode, document)
      known = ok and type(decoded.job) == "table" and decoded.job.digest or "of another client"
    end
  end
  if known and known ~= digest then
    return {"taken", i}
  end
  reply[i + 2] = known and 0 or 1
  seen[record] = digest
end

for i = 1, #KEYS / 3 do
  if reply[i + 2] == 1 then
    local expires = tonumber(ARGV[5 * i])
    local ttl = math.ceil(expires + tonumber(ARGV[1]))
    local times = string.format(',"queued_at":%.4f,"expires_at":%.4f}}', now, now + expires)
    redis.call("SETEX", KEYS[3 * i - 2], ttl, ARGV[5 * i - 2] .. times)
    if ARGV[5 * i + 2] ~= "" then
      redis.call("SETEX", KEYS[3 * i], ttl, ARGV[5 * i + 2])
    end
    if ARGV[2] == "1" then
      redis.call("LPUSH", KEYS[3 * i - 1], ARGV[5 * i + 1])
    end
  end
end
return reply
