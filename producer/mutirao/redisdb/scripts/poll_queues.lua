-- Push wakeup tokens for queues in which something waits though no token does: a stock client pushes its message and no token.
-- ARGV[1]: the worker.  ARGV[2]: for how long it is the one that polls a queue, in milliseconds.
-- ARGV[3]: the separator of kombu's priority steps.  ARGV, 1 a queue from ARGV[4]: its name.
-- Reply, one a queue: 0 if another worker polls it, 1 if this one does, 2 if it does and has pushed a token.
-- Invariant: one worker polls a queue, however many serve it; any of them takes what waits.
local hold_ms, reply = tonumber(ARGV[2]), {}
for at = 4, #ARGV do
  local queue, wakeup, poller = ARGV[at], WAKEUP .. ARGV[at], POLLER .. ARGV[at]
  local current = redis.call("GET", poller)
  reply[#reply + 1] = 0
  if not current or current == ARGV[1] then
    if redis.call("PTTL", poller) < hold_ms / 2 then
      redis.call("SET", poller, ARGV[1], "PX", hold_ms)
    end
    reply[#reply] = 1
    local lists = {queue, queue .. ARGV[3] .. "3", queue .. ARGV[3] .. "6", queue .. ARGV[3] .. "9"}
    if redis.call("EXISTS", unpack(lists)) > 0 and redis.call("EXISTS", wakeup) == 0 then
      redis.call("LPUSH", wakeup, "1")
      reply[#reply] = 2
    end
  end
end
return reply
