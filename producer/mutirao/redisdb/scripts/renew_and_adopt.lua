-- Renew this worker's lease; adopt the reservations of workers whose lease has lapsed.
-- KEYS[1]: the leases.  KEYS[2]: the workers' free slots.  KEYS[3]: the dead letters.  KEYS[4]: their index.
-- ARGV[1]: the worker.  ARGV[2]: its lease in seconds.  ARGV[3]: the deliveries that a request gets.
-- ARGV[4]: "1" where records are on this server; else the caller ends and dead-letters what is given up.
-- ARGV[5]: how long an ended record is kept, in seconds.  ARGV[6]: the time of ending, as Celery writes it.
-- ARGV[7]: the worker's free slots.
-- ARGV[8]: the number of queues it consumes.  ARGV from ARGV[9]: those, and then the queues that it consumes no more.
-- Reply: {now, 1 if the lease had lapsed and all under it was adopted, how many were adopted, {list key, envelope, worker, ...} given up,
--   how many requests stand under this worker's name}.
-- Invariant: a lease lapses by this server's clock alone; a live worker's reservations are never touched. A lapsed lease is removed
--   with the last reservation under it: one that still stands there is renewed, and what it covers is still held.
local now, lease_s = seconds(), tonumber(ARGV[2])
allow_when_full()
local lapsed = redis.call("ZADD", KEYS[1], now + lease_s, ARGV[1])
redis.call("HSET", KEYS[2], ARGV[1], ARGV[7])
for i = 9, #ARGV do
  redis.call(i < 9 + tonumber(ARGV[8]) and "SADD" or "SREM", CONSUMERS .. ARGV[i], ARGV[1])
end

-- Return the envelope with one more delivery counted in its headers, and the number of deliveries.
local function count_delivery(envelope)
  local before, head, rest = string.match(envelope, '^(.-"headers":%s*{)(.*)$')
  if not before then
    return envelope, 0
  end
  head = tonumber(string.match(head, '^"attempts":(%d+),')) or 0
  if head > 0 then
    rest = string.match(envelope, '^.-"headers":%s*{"attempts":%d+,(.*)$')
  else
    rest = string.sub(envelope, #before + 1)
  end
  local comma = string.match(rest, "^%s*}") and "" or ","
  return before .. '"attempts":' .. (head + 1) .. comma .. rest, head + 1
end

local DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local function base64(bytes)
  return (string.gsub(bytes, "..?.?", function(part)
    local first, second, third = string.byte(part, 1, 3)
    local bits, text = first * 65536 + (second or 0) * 256 + (third or 0), ""
    for _, unit in ipairs({262144, 4096, 64, 1}) do
      local digit = math.floor(bits / unit) % 64 + 1
      text = text .. string.sub(DIGITS, digit, digit)
    end
    return string.sub(text, 1, #part + 1) .. string.rep("=", 3 - #part)
  end))
end

-- Keep a dead letter of a request that was given up, and end its job.
local function dead_letter(id, key, envelope, worker, deliveries)
  if not string.match(id, "^%w[%w._:~-]*$") then
    id = ""
  end
  local is_binary = string.find(envelope, "[\128-\255]") and true or nil  -- a letter is JSON, and the envelope may not be UTF-8
  local message = "gave up after " .. deliveries .. " deliveries: each worker that took it was lost"
  local letter = id ~= "" and id or "x-" .. redis.sha1hex(envelope)
  keep_dead_letter(KEYS[3], KEYS[4], letter, cjson.encode({
    id = letter, task_id = id, model = string.match(key, "^mutirao%.([^\6]*)") or "", queue = key, reason = "worker lost",
    message = message, at = now, worker = worker, attempts = deliveries,
    envelope = is_binary and base64(envelope) or envelope, envelope_base64 = is_binary,
  }), now)
  if id ~= "" then
    local record = RECORD .. id
    local document = redis.call("GET", record)
    if not document or not ended(status_of(document)) then
      local groups = {}
      keep_and_publish(record, '{"status":"FAILURE","task_id":"' .. id
        .. '","result":{"exc_type":"WorkerLostError","exc_message":["' .. message
        .. '"],"exc_module":"billiard.exceptions"},"traceback":null,"date_done":"' .. ARGV[6] .. '","children":[],"job":'
        .. job_of(document, string.match(key, "^mutirao%.([^\6]*)") or "")
        .. string.format(',"started_at":null,"finished_at":%.4f,"worker":%s,"attempts":%d}}', now, cjson.encode(worker), deliveries),
        ARGV[5], string.match(envelope, '"reply":%s*"([^"]*)"'), groups)
      publish_groups(groups)
    end
  end
end

local adopted, given_up, woken = 0, {}, {}
for _, worker in ipairs(redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", now, "LIMIT", 0, 4)) do
  local reservations = RESERVED .. worker
  for _, field in ipairs(oldest_last(redis.call("HKEYS", reservations))) do
    if adopted >= 5000 then
      break
    end
    local _, key = parts_of_field(field)
    local envelope = redis.call("HGET", reservations, field)
    local id = string.match(envelope, '"id":%s*"([^"]*)"') or ""
    local counted, deliveries = count_delivery(envelope)
    local host = string.match(worker, "^(.*)#") or worker
    if deliveries >= tonumber(ARGV[3]) then
      if ARGV[4] == "1" then
        dead_letter(id, key, envelope, host, deliveries)
      end
      redis.call("HDEL", reservations, field)
      given_up[#given_up + 1], given_up[#given_up + 2], given_up[#given_up + 3] = key, envelope, host
    else
      return_to_head(key, counted)
      redis.call("HDEL", reservations, field)
      woken[string.match(key, "^([^\6]*)")] = true
      if ARGV[4] == "1" then
        record_requeue(id, host, "worker lost", now)
      end
    end
    adopted = adopted + 1
  end
  if redis.call("EXISTS", reservations) == 0 then
    redis.call("ZREM", KEYS[1], worker)
    redis.call("HDEL", KEYS[2], worker)
  end
end
for queue in pairs(woken) do
  redis.call("LPUSH", WAKEUP .. queue, "1", "1")
  redis.call("LTRIM", WAKEUP .. queue, 0, 7)
end
return {string.format("%.6f", now), lapsed, adopted, given_up, redis.call("HLEN", RESERVED .. ARGV[1])}
