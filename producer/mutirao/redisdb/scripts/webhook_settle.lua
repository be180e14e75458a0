-- End one attempt of a webhook delivery: it is done, waits for another attempt, or becomes a dead letter.
-- KEYS[1]: the deliveries that are held or wait for another attempt, by when.  KEYS[2]: the dead letters' index.
-- ARGV[1]: the delivery.  ARGV[2]: the delivery as it waits for another attempt, "" for none.  ARGV[3]: in how many seconds.
-- ARGV[4]: the dead letter's id.  ARGV[5]: the dead letter, "" for none.  ARGV[6]: how many dead letters are kept.
-- ARGV[7]: the dead letters' hash, which is not among KEYS: the Redis user of webhooks may write it, and not read it.
-- Reply: 1, or 0 where the delivery was not held any more: it is another process's, or has ended.
-- Invariant: a delivery that is not held is not changed, so none waits twice.
if redis.call("ZREM", KEYS[1], ARGV[1]) == 0 then
  return 0
end
local now = seconds()
if ARGV[2] ~= "" then
  redis.call("ZADD", KEYS[1], now + tonumber(ARGV[3]), ARGV[2])
end
if ARGV[5] ~= "" then
  redis.call("HSET", ARGV[7], ARGV[4], ARGV[5])
  redis.call("ZADD", KEYS[2], now, ARGV[4])
  local over = redis.call("ZCARD", KEYS[2]) - tonumber(ARGV[6])
  if over > 0 then
    for _, oldest in ipairs(redis.call("ZRANGE", KEYS[2], 0, over - 1)) do
      redis.call("HDEL", ARGV[7], oldest)
      redis.call("ZREM", KEYS[2], oldest)
    end
  end
end
return 1
