-- Replay dead letters: each goes to the end of its queue under its own id, and its record says queued again.
-- KEYS[1]: the dead letters.  KEYS[2]: their index.
-- ARGV[1]: "all", or "records" where queues are on another server: the caller then pushes what is in the reply.
-- ARGV[2]: how long a finished record is kept, in seconds.  ARGV[3]: the new deadline, in seconds from now.
-- ARGV, 1 a letter from ARGV[4]: its id.
-- Reply, an array a letter: {"replayed"} and, for "records", {"replayed", list key, envelope, letter, its score in the index,
--   the record as it was or false}; else {"gone"}, {"payload gone"}, or {the status of a job that has not failed}.
-- Invariant: a letter is removed in the step that pushes it, so nothing is replayed twice.
-- Invariant: only the record of a failed job is changed; its text layout is that of mutirao.wire.messages.JobRecord.
local now = seconds()
local kept_s = math.ceil(tonumber(ARGV[2]) + tonumber(ARGV[3]))
local PRIORITIES = {["0"] = "high", ["3"] = "normal", ["6"] = "low"}

-- Return the base part of a record's job without times and history, and its history; made of the letter where the record is gone.
local function job_base_of(document, letter)
  local job = string.match(document or "", '"job":({.*)}}$')
  if not job then
    local rows = string.match(letter.envelope, '"mutirao":%s*{"rows":%s*(%d+)') or "0"
    local priority = PRIORITIES[string.match(letter.queue, "^[^\6]*\6\22(%d+)") or "0"] or ""
    local _, tenant = parts_of_list(letter.queue)
    local owner = tenant ~= "" and ',"owner":"' .. tenant .. '"' or ""
    return string.format('{"model":%s,"rows":%s,"priority":"%s"%s', cjson.encode(letter.model), rows, priority, owner), ""
  end
  local run_at = string.find(job, ',"started_at":', 1, true)
  job = run_at and string.sub(job, 1, run_at - 1) or job
  local before, history = string.match(job, '^(.*),"history":%[(.*)%]$')
  job = string.gsub(before or job, ',"queued_at":[%d%.]+', "", 1)
  job = string.gsub(job, ',"expires_at":[%d%.]+', "", 1)
  job = string.gsub(job, ',"line":%-?%d+', "", 1)
  return job, history and history .. "," or ""
end

local function queued_record(id, document, letter)
  local job, history = job_base_of(document, letter)
  local number = ARGV[1] == "all" and string.format(',"line":%d',
    redis.call("LLEN", letter.queue) + tonumber(redis.call("HGET", LIST_COUNTS, letter.queue) or 0)) or ""
  return string.format(
    '{"status":"QUEUED","task_id":"%s","result":null,"traceback":null,"date_done":null,"children":null,"job":'
      .. '%s,"queued_at":%.4f,"expires_at":%.4f%s,"history":[%s{"worker":%s,"at":%.4f,"how":%s},'
      .. '{"worker":"","at":%.4f,"how":"replayed"}]}}',
    id, job, now, now + tonumber(ARGV[3]), number, history, cjson.encode(letter.worker), letter.at, cjson.encode(letter.reason), now
  )
end

-- Return the envelope as it was first sent: deliveries count anew, and a stock client's deadline, which has passed, does not end it.
local function as_first_sent(envelope)
  local before, after = string.match(envelope, '^(.-"headers":%s*{)"attempts":%d+,(.*)$')
  return (string.gsub(before and before .. after or envelope, '("expires":%s*)"[^"]*"', "%1null", 1))
end

local function replay(id)
  local raw = redis.call("HGET", KEYS[1], id)
  if not raw then
    return {"gone"}
  end
  local letter = cjson.decode(raw)
  local key, payload = RECORD .. id, PAYLOAD .. id .. ":in"
  local document = redis.call("GET", key)
  local status = document and (string.match(document, '^{"status":"(%u+)"') or cjson.decode(document).status)
  if status and status ~= "FAILURE" then
    return {status}
  end
  local is_offloaded = string.match(letter.envelope, '"mutirao":%s*{[^}]*"beside":%s*true')
  if is_offloaded and redis.call("EXPIRE", payload, kept_s) == 0 then
    return {"payload gone"}
  end
  local score = redis.call("ZSCORE", KEYS[2], id) or "0"
  redis.call("HDEL", KEYS[1], id)
  redis.call("ZREM", KEYS[2], id)
  if not string.find(letter.envelope, '"ignore_result":%s*true') then
    redis.call("SETEX", key, kept_s, queued_record(id, document, letter))
  end
  if ARGV[1] == "records" then
    return {"replayed", letter.queue, as_first_sent(letter.envelope), raw, score, document}
  end
  enqueue(letter.queue, as_first_sent(letter.envelope))
  return {"replayed"}
end

local reply = {}
for at = 4, #ARGV do
  reply[#reply + 1] = replay(ARGV[at])
end
return reply
