-- Prelude of the scripts that read or end records: the text layout of a record (see mutirao.wire.messages.JobRecord).
-- A record begins with its status and ends with its job; inside `job` the fields of a run come last, from "started_at" on.
-- Editing the text costs a tenth of decoding it, and keeps every other field as it was written.

-- Let a script run on a Redis that is over its maxmemory. Redis refuses a script whose first write may need memory, and lets one go on
-- whose first write cannot. Scripts that take and end requests must run, since they make room.
local function allow_when_full()
  redis.call("DEL", NOTHING)
end

local function status_of(document)
  return string.match(document, '^{"status":"(%u+)"') or cjson.decode(document).status
end

local function ended(status)
  return status == "SUCCESS" or status == "FAILURE" or status == "REVOKED"
end

-- Return the base part of a record's job, without its closing brace; one made of the model's name where there is no record yet.
local function job_of(document, model)
  local from = document and string.find(document, '"job":{', 1, true)
  if not from then
    return '{"model":"' .. model .. '"'
  end
  local run_at = string.find(document, ',"started_at":', from, true)
  return string.sub(document, from + 6, run_at and run_at - 1 or -3)
end

-- Return when a waiting request expires, in seconds since the epoch; nil for never.
local function deadline_of(document)
  local from = string.find(document, '"expires_at":', 1, true)
  return from and tonumber(string.match(document, "^[%d%.]+", from + 13))
end

-- Return the record of a job that ends without having run.
local function revoked_record(document, id, reason, done, now)
  return '{"status":"REVOKED","task_id":"' .. id
    .. '","result":{"exc_type":"TaskRevokedError","exc_message":["' .. reason
    .. '"],"exc_module":"celery.exceptions"},"traceback":null,"date_done":"' .. done
    .. '","children":null,"job":' .. job_of(document, "")
    .. string.format(',"started_at":null,"finished_at":%.4f}}', now)
end

-- Keep an ended record, publish it to clients that wait for this job alone, and add it to the group of its own client.
-- has_listener is false where nobody subscribes to the job's channel by name. A job without a client is published all the same:
-- subscribers by pattern are not counted.
local function keep_and_publish(key, document, ttl, reply, groups, has_listener)
  redis.call("SETEX", key, ttl, document)
  if has_listener ~= false or (reply or "") == "" then
    redis.call("PUBLISH", key, document)
  end
  push_webhook(document)
  if reply and reply ~= "" then
    local group = groups[reply]
    if group then
      group[#group + 1] = document
    else
      groups[reply] = {document}
    end
  end
end

-- Publish to each client the records of its jobs that ended.
local function publish_groups(groups)
  for reply, documents in pairs(groups) do
    redis.call("PUBLISH", REPLY .. reply, "[" .. table.concat(documents, ",") .. "]")
  end
end

-- A reservation's field is its tag, a space, and the list it came from.
local function parts_of_field(field)
  return string.match(field, "^(%d+) (.*)$")
end

local function oldest_last(fields)
  table.sort(fields, function(a, b) return tonumber(parts_of_field(a) or 0) > tonumber(parts_of_field(b) or 0) end)
  return fields
end

-- Write a record as queued again, with one more entry in its history.
local function record_requeue(id, worker, how, now)
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

-- Keep a dead letter, and the offloaded tensors of its request for as long as it can be replayed; the oldest letters make room.
local function keep_dead_letter(dead, index, id, letter, now)
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
