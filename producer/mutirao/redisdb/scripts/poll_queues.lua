-- Ring the bells of queues in which something waits though none has rung: a stock client pushes, and that is all.
-- ARGV[1]: the worker.  ARGV[2]: for how long it is the one that polls a queue, in milliseconds.
-- ARGV[3]: the separator of kombu's priority steps.  ARGV, 1 a queue from ARGV[4]: its name.
-- Reply: for each queue 0 if another worker polls it, 1 if this one does, 2 if it does and has rung.
-- Invariant: one worker polls a queue, however many serve it; whoever listens to the bell takes what waits.
local hold, reply = tonumber(ARGV[2]), {}
for at = 4, #ARGV do
  local queue, bell, poller = ARGV[at], BELL .. ARGV[at], POLLER .. ARGV[at]
  local by = redis.call("GET", poller)
  reply[#reply + 1] = 0
  if not by or by == ARGV[1] then
    if redis.call("PTTL", poller) < hold / 2 then
      redis.call("SET", poller, ARGV[1], "PX", hold)
    end
    reply[#reply] = 1
    local lists = {queue, queue .. ARGV[3] .. "3", queue .. ARGV[3] .. "6", queue .. ARGV[3] .. "9"}
    if redis.call("EXISTS", unpack(lists)) > 0 and redis.call("EXISTS", bell) == 0 then
      redis.call("LPUSH", bell, "1")
      reply[#reply] = 2
    end
  end
end
return reply
