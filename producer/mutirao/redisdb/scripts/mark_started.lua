-- Write in the records of requests that they run, for clients that poll.
-- ARGV[1]: how long a record without a deadline is kept, in seconds.  ARGV[2]: the model.  ARGV[3]: the run, as in commit.lua.
-- ARGV, 1 a request from ARGV[4]: its id.
-- Reply: OK.
-- Invariant: a record that has ended never changes.
allow_when_full()
for at = 4, #ARGV do
  local id = ARGV[at]
  local key = RECORD .. id
  local document = redis.call("GET", key)
  if not document or not ended(status_of(document)) then
    local ttl = document and redis.call("TTL", key) or -1
    redis.call("SETEX", key, ttl > 0 and ttl or ARGV[1], '{"status":"STARTED","task_id":"' .. id
      .. '","result":null,"traceback":null,"date_done":null,"children":null,"job":'
      .. job_of(document, ARGV[2]) .. ARGV[3] .. "}}")
  end
end
return redis.status_reply("OK")
