-- Write a job's record, and announce it, unless the job has already ended.
-- KEYS[1]: its record.  KEYS[2]: the payload of its request.  KEYS[3]: the payload of its result.
-- ARGV[1]: the record's JSON without its last brace and without `job`.  ARGV[2]: how long it is kept, in seconds.
-- ARGV[3]: "1" if the state is a terminal one.  ARGV[4]: the payload of the result ("" for none).
-- ARGV[5]: model, ARGV[6]: version, ARGV[7]: worker ("" for not known).
-- Reply: 1 if written, 0 if the job had already ended.
-- Invariant: the first terminal state wins, whoever writes it.
local document = redis.call("GET", KEYS[1])
local job = {}
if document then
  local record = cjson.decode(document)
  if record.status == "SUCCESS" or record.status == "FAILURE" or record.status == "REVOKED" then
    return 0
  end
  job = type(record.job) == "table" and record.job or job
end
for at, field in ipairs({"model", "version", "worker"}) do
  if ARGV[4 + at] ~= "" then
    job[field] = ARGV[4 + at]
  end
end
if ARGV[3] == "1" then
  local time = redis.call("TIME")
  job.finished_at = tonumber(time[1]) + tonumber(time[2]) / 1000000
  redis.call("DEL", KEYS[2])
end
if ARGV[4] ~= "" then
  redis.call("SETEX", KEYS[3], ARGV[2], ARGV[4])
end
if next(job) then
  document = ARGV[1] .. ',"job":' .. cjson.encode(job) .. "}"
else
  document = ARGV[1] .. "}"
end
redis.call("SETEX", KEYS[1], ARGV[2], document)
redis.call("PUBLISH", KEYS[1], document)
return 1
