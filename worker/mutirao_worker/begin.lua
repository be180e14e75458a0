-- Mark a job as started, unless it has already ended: it may have been cancelled, have expired, or be a second delivery.
-- KEYS[1]: its record.  KEYS[2]: the payload of its request.
-- ARGV[1]: its id.  ARGV[2]: the worker's name.  ARGV[3]: how long the record is kept from now, in seconds.
-- ARGV[4]: the time of ending, as Celery writes it, should it be found expired.
-- Reply: 1 to run it, 0 to drop it.
-- Invariant: a terminal record never changes; one that a stock client sent has no record yet, and gets one here.
local document = redis.call("GET", KEYS[1])
local record = document and cjson.decode(document) or {task_id = ARGV[1], children = cjson.null, traceback = cjson.null}
if record.status == "SUCCESS" or record.status == "FAILURE" or record.status == "REVOKED" then
  return 0
end
local time = redis.call("TIME")
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local job = type(record.job) == "table" and record.job or {}
record.job = job
record.result, record.date_done = cjson.null, cjson.null
if record.status == "QUEUED" and job.expires_at and job.expires_at <= now then
  record.status = "REVOKED"
  record.result = {exc_type = "TaskRevokedError", exc_message = {"expired"}, exc_module = "celery.exceptions"}
  record.date_done = ARGV[4]
  job.finished_at = now
  document = cjson.encode(record)
  redis.call("SETEX", KEYS[1], ARGV[3], document)
  redis.call("DEL", KEYS[2])
  redis.call("PUBLISH", KEYS[1], document)
  return 0
end
record.status = "STARTED"
job.started_at = now
job.worker = ARGV[2]
job.attempts = (job.attempts or 0) + 1
redis.call("SETEX", KEYS[1], ARGV[3], cjson.encode(record))
return 1
