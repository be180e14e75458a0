-- End a job that still waits in its queue: because somebody cancels it, or because its deadline has passed.
-- KEYS[1]: its record.  KEYS[2]: its payload.
-- ARGV[1]: "revoked" to cancel, "expired" to end it only if its deadline has passed.  ARGV[2]: how long the record is kept.
-- ARGV[3]: the time of ending, as Celery writes it.
-- Reply: the record as it is now, or false where there is none.
-- Invariant: only a QUEUED record is changed; the worker looks at it before it computes anything.
local document = redis.call("GET", KEYS[1])
if not document then
  return false
end
local record = cjson.decode(document)
if record.status ~= "QUEUED" then
  return document
end
local time = redis.call("TIME")
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
if ARGV[1] == "expired" and not (record.job.expires_at and record.job.expires_at <= now) then
  return document
end
record.status = "REVOKED"
record.result = {exc_type = "TaskRevokedError", exc_message = {ARGV[1]}, exc_module = "celery.exceptions"}
record.date_done = ARGV[3]
record.job.finished_at = now
document = cjson.encode(record)
redis.call("SETEX", KEYS[1], ARGV[2], document)
redis.call("DEL", KEYS[2])
redis.call("PUBLISH", KEYS[1], document)
return document
