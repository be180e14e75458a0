-- End jobs that still wait in their queues: because somebody cancels them, or because their deadlines have passed.
-- KEYS, 2 a job: its record, its payload.  Written beside: how many jobs have ever been cancelled, for workers to look at.
-- ARGV[1]: "revoked" to cancel, "expired" to end those only whose deadline has passed.
-- ARGV[2]: how long a record is kept.  ARGV[3]: the time of ending, as Celery writes it.
-- ARGV[4]: the channel of the client that asks: it may itself wait for them.
-- Reply: each record as it is now, or false where there is none.
-- Invariant: only a QUEUED record is changed; the worker looks at it before it computes anything.
-- Invariant: a record begins with its status and ends with `job`, and what `job` has from started_at on is written as a whole.
local time = redis.call("TIME")
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local ending = string.format(
  ',"result":{"exc_type":"TaskRevokedError","exc_message":["%s"],"exc_module":"celery.exceptions"},'
    .. '"traceback":null,"date_done":"%s","children":null',
  ARGV[1],
  ARGV[3]
)
local reply, ended = {}, {}

for at = 1, #KEYS, 2 do
  local document = redis.call("GET", KEYS[at])
  local named, job = string.match(document or "", '^{"status":"QUEUED",("task_id":"[^"]*").*(,"job":{.*)}}$')
  local expires = job and tonumber(string.match(job, '"expires_at":([%d%.]+)'))
  if job and (ARGV[1] ~= "expired" or (expires and expires <= now)) then
    local started = string.find(job, ',"started_at":', 1, true)
    job = (started and string.sub(job, 1, started - 1) or job)
      .. string.format(',"started_at":null,"finished_at":%.4f', now)
    document = '{"status":"REVOKED",' .. named .. ending .. job .. "}}"
    redis.call("SETEX", KEYS[at], ARGV[2], document)
    redis.call("DEL", KEYS[at + 1])
    redis.call("PUBLISH", KEYS[at], document)
    hook(document)
    ended[#ended + 1] = document
  end
  reply[#reply + 1] = document
end
if #ended > 0 then
  redis.call("INCRBY", CANCELLED, #ended)
  redis.call("PUBLISH", ARGV[4], "[" .. table.concat(ended, ",") .. "]")
end
return reply
