-- Prelude of the scripts that read or end records: the text layout of a record (see mutirao.wire.messages.JobRecord).
-- A record begins with its status and ends with its job; inside `job` what only a run tells comes last, from "started_at" on.
-- Editing the text costs a tenth of decoding it, and keeps every other field as it was written.

-- Over its maxmemory Redis refuses a script whose first write may need memory, and lets one go on whose first write cannot. What takes
-- and ends requests must get in: it is what makes room.
local function though_full()
  redis.call("DEL", NOTHING)
end

local function status_of(document)
  return string.match(document, '^{"status":"(%u+)"') or cjson.decode(document).status
end

local function ended(status)
  return status == "SUCCESS" or status == "FAILURE" or status == "REVOKED"
end

-- The base part of a record's job, without its closing brace; of a model's name where there is no record yet.
local function job_of(document, model)
  local from = document and string.find(document, '"job":{', 1, true)
  if not from then
    return '{"model":"' .. model .. '"'
  end
  local run = string.find(document, ',"started_at":', from, true)
  return string.sub(document, from + 6, run and run - 1 or -3)
end

-- When a request that waits is to be given up, in seconds since the epoch; nil for never.
local function deadline_of(document)
  local from = string.find(document, '"expires_at":', 1, true)
  return from and tonumber(string.match(document, "^[%d%.]+", from + 13))
end

local function revoked(document, id, why, done, now)
  return '{"status":"REVOKED","task_id":"' .. id
    .. '","result":{"exc_type":"TaskRevokedError","exc_message":["' .. why
    .. '"],"exc_module":"celery.exceptions"},"traceback":null,"date_done":"' .. done
    .. '","children":null,"job":' .. job_of(document, "")
    .. string.format(',"started_at":null,"finished_at":%.4f}}', now)
end

-- Keep a record, announce it to whoever waits for this job alone, and add it to its client's group; heard is false where nobody waits
-- by its name: without a client's group somebody may by a pattern, which nobody counts.
local function announce(key, document, ttl, reply, groups, heard)
  redis.call("SETEX", key, ttl, document)
  if heard ~= false or (reply or "") == "" then
    redis.call("PUBLISH", key, document)
  end
  hook(document)
  if reply and reply ~= "" then
    local group = groups[reply]
    if group then
      group[#group + 1] = document
    else
      groups[reply] = {document}
    end
  end
end

local function tell(groups)
  for reply, documents in pairs(groups) do
    redis.call("PUBLISH", REPLY .. reply, "[" .. table.concat(documents, ",") .. "]")
  end
end

-- A reservation's field is its tag, a space, and the list it came from.
local function parts_of(field)
  return string.match(field, "^(%d+) (.*)$")
end

local function oldest_last(fields)
  table.sort(fields, function(a, b) return tonumber(parts_of(a) or 0) > tonumber(parts_of(b) or 0) end)
  return fields
end

local function seconds()
  local time = redis.call("TIME")
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

-- A record that said running says queued again, and how it came to that.
local function requeued(id, worker, how, now)
  local key = RECORD .. id
  local document = redis.call("GET", key)
  if not document or ended(status_of(document)) or not string.find(document, '"job":{', 1, true) then
    return
  end
  local entry = string.format('{"worker":%s,"at":%.4f,"how":"%s"}', cjson.encode(worker), now, how)
  local job = job_of(document, "")
  local before = string.match(job, '^(.*"history":%[.*)%]$')
  job = before and before .. "," .. entry .. "]" or job .. ',"history":[' .. entry .. "]"
  redis.call("SET", key, '{"status":"QUEUED","task_id":"' .. id
    .. '","result":null,"traceback":null,"date_done":null,"children":null,"job":' .. job .. "}}", "KEEPTTL")
end

-- Keep a dead letter, and the tensors beside its request for as long as somebody may look; the oldest make room.
local function keep_letter(dead, index, id, letter, now)
  redis.call("HSET", dead, id, letter)
  redis.call("ZADD", index, now, id)
  redis.call("EXPIRE", PAYLOAD .. id .. ":in", DEAD_PAYLOAD_S)
  local over = redis.call("ZCARD", index) - DEAD_MAX
  if over <= 0 then
    return
  end
  for _, oldest in ipairs(redis.call("ZRANGE", index, 0, over - 1)) do
    local document = redis.call("GET", RECORD .. oldest)
    if not document or ended(status_of(document)) then
      redis.call("DEL", PAYLOAD .. oldest .. ":in")
    end
    redis.call("HDEL", dead, oldest)
    redis.call("ZREM", index, oldest)
  end
end
