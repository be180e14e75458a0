-- Count the free slots of other live workers that serve a queue in which nothing waits.
-- KEYS[1]: the leases.  KEYS[2]: the workers' free slots.
-- ARGV[1]: the calling worker.  ARGV[2]: the separator of kombu's priority steps.
-- ARGV, 1 a queue from ARGV[3]: its name.
-- Reply: {free slots, ...}, one a queue; 0 where something waits.
-- Invariant: nothing is changed.
local now, reply = seconds(), {}
for at = 3, #ARGV do
  local queue, idle = ARGV[at], 0
  local lists = {queue, queue .. ARGV[2] .. "3", queue .. ARGV[2] .. "6", queue .. ARGV[2] .. "9"}
  if redis.call("EXISTS", TENANTS .. queue, unpack(lists)) == 0 then
    local members = redis.call("SMEMBERS", CONSUMERS .. queue)
    if #members > 1 then
      local leases, slots = redis.call("ZMSCORE", KEYS[1], unpack(members)), redis.call("HMGET", KEYS[2], unpack(members))
      for i, member in ipairs(members) do
        if member ~= ARGV[1] and leases[i] and tonumber(leases[i]) > now then
          idle = idle + tonumber(slots[i] or 0)
        end
      end
    end
  end
  reply[#reply + 1] = idle
end
return reply
