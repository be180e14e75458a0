-- Write in the records of requests whose process died or was stopped that they run again, and why.
-- ARGV[1]: the worker's name.  ARGV[2]: the reason: process died, or time limit.  ARGV, 1 a request from ARGV[3]: its id.
-- Reply: OK.
-- Invariant: a record that has ended never changes.
allow_when_full()
local now = seconds()
for at = 3, #ARGV do
  record_requeue(ARGV[at], ARGV[1], ARGV[2], now)
end
return redis.status_reply("OK")
