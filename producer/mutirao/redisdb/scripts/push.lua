-- Put a dead letter's request at the end of its list, where queues are on another server than dead letters.
-- KEYS[1]: its list.  ARGV[1]: its envelope.
-- Reply: OK.
enqueue(KEYS[1], ARGV[1])
return redis.status_reply("OK")
