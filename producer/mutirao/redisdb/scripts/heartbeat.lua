-- Announce a worker and the models it knows; forget workers that have been silent for five minutes.
-- KEYS[1]: the models.  KEYS[2]: the workers.
-- ARGV[1]: the worker's own name: no other process has it.  ARGV[2]: its JSON without its last brace.  ARGV, 2 a model from ARGV[3]: its name, its JSON without
--   its last brace.
-- Reply: OK.
-- What is kept of a model is the word of one that serves it, as long as there is one: a worker that cannot says so of itself alone.
-- Of differing copies that which is shown stays, as long as another worker serves it: what the catalogue shows does not go back and forth.
local time = redis.call("TIME")
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local served = {}
redis.call("DEL", NOTHING)  -- over its maxmemory Redis lets a script go on whose first write needs no memory
local workers = redis.call("HGETALL", KEYS[2])
for at = 1, #workers, 2 do
  local ok, worker = pcall(cjson.decode, workers[at + 1])
  if not ok or not worker.seen_at or now - worker.seen_at > 300 then
    redis.call("HDEL", KEYS[2], workers[at])
  elseif workers[at] ~= ARGV[1] and now - worker.seen_at < 15 then
    for name in pairs(worker.models or {}) do
      served[name] = served[name] or {}
      served[name][(worker.digests or {})[name] or ""] = true
    end
  end
end
local failing = cjson.decode(ARGV[2] .. "}").failing or {}
for at = 3, #ARGV, 2 do
  local name, others = ARGV[at], served[ARGV[at]]
  local shown = others and redis.call("HGET", KEYS[1], name)
  local copy = shown and string.match(shown, '"digest":"(%x+)"')
  local differs = copy and copy ~= string.match(ARGV[at + 1], '"digest":"(%x+)"')
  if not (others and (failing[name] or (differs and others[copy]))) then
    redis.call("HSET", KEYS[1], ARGV[at], string.format('%s,"seen_at":%.4f}', ARGV[at + 1], now))
  end
end
redis.call("HSET", KEYS[2], ARGV[1], string.format('%s,"seen_at":%.4f}', ARGV[2], now))
return redis.status_reply("OK")
