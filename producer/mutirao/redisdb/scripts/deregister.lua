-- Remove a worker from every list. Where it still holds requests, its lease lapses instead, and other workers adopt them at once.
-- KEYS[1]: the leases.  KEYS[2]: the workers' free slots.  KEYS[3]: the worker's reservations.
-- ARGV[1]: the worker.  ARGV, 1 a queue from ARGV[2]: the queues that it consumed.
-- Reply: 1 if it held nothing, 0 if its lease lapsed.
-- Invariant: every reservation stands under a lease, lapsed or not: without one no worker would look for it.
redis.call("HDEL", KEYS[2], ARGV[1])
for i = 2, #ARGV do
  redis.call("SREM", CONSUMERS .. ARGV[i], ARGV[1])
end
if redis.call("EXISTS", KEYS[3]) == 0 then
  redis.call("ZREM", KEYS[1], ARGV[1])
  return 1
end
redis.call("ZADD", KEYS[1], 0, ARGV[1])
return 0
