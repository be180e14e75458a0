-- Put a dead letter's request to the end of its line, where queues are on another server than dead letters.
-- KEYS[1]: its list.  ARGV[1]: its envelope.
-- Reply: OK.
put(KEYS[1], ARGV[1])
return redis.status_reply("OK")
