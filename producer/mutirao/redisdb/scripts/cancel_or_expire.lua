-- End jobs that wait in their queues: on a cancellation, or because their deadlines have passed.
-- KEYS, 2 a job: its record, its payload.  Also written: the number of jobs that have ever been cancelled, which workers poll.
-- ARGV[1]: "revoked" to cancel, "expired" to end only those whose deadline has passed.
-- ARGV[2]: how long a record is kept, in seconds.  ARGV[3]: the time of ending, as Celery writes it.
-- ARGV[4]: the reply channel of the calling client, which may itself wait for these jobs.
-- Reply: each record as it is now, or false where there is none.
-- Invariant: only a QUEUED record is changed; the worker reads it before it computes anything.
-- Invariant: a record begins with its status and ends with `job`, and the fields of `job` from started_at on are written together.
local now = seconds()
local ending = string.format(
  ',"result":{"exc_type":"TaskRevokedError","exc_message":["%s"],"exc_module":"celery.exceptions"},'
    .. '"traceback":null,"date_done":"%s","children":null',
  ARGV[1],
  ARGV[3]
)
local reply, ended_documents = {}, {}

for i = 1, #KEYS, 2 do
  local document = redis.call("GET", KEYS[i])
  local id_field, job = string.match(document or "", '^{"status":"QUEUED",("task_id":"[^"]*").*(,"job":{.*)}}$')
  local expires = job and tonumber(string.match(job, '"expires_at":([%d%.]+)'))
  if job and (ARGV[1] ~= "expired" or (expires and expires <= now)) then
    local run_at = string.find(job, ',"started_at":', 1, true)
    job = (run_at and string.sub(job, 1, run_at - 1) or job)
      .. string.format(',"started_at":null,"finished_at":%.4f', now)
    document = '{"status":"REVOKED",' .. id_field .. ending .. job .. "}}"
    redis.call("SETEX", KEYS[i], ARGV[2], document)
    redis.call("DEL", KEYS[i + 1])
    redis.call("PUBLISH", KEYS[i], document)
    push_webhook(document)
    ended_documents[#ended_documents + 1] = document
  end
  reply[#reply + 1] = document
end
if #ended_documents > 0 then
  redis.call("INCRBY", CANCELLED, #ended_documents)
  redis.call("PUBLISH", ARGV[4], "[" .. table.concat(ended_documents, ",") .. "]")
end
return reply
