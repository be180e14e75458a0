-- Say of requests whose process died or was stopped that they are to run again, and how that came.
-- ARGV[1]: the worker's name.  ARGV[2]: how: process died, or time limit.  ARGV, 1 a request from ARGV[3]: its id.
-- Reply: OK.
though_full()
local now = seconds()
for at = 3, #ARGV do
  requeued(ARGV[at], ARGV[1], ARGV[2], now)
end
return redis.status_reply("OK")
