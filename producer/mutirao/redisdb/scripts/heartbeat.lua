-- Announce a worker and the models it knows; remove workers that have been silent for five minutes.
-- KEYS[1]: the models.  KEYS[2]: the workers.
-- ARGV[1]: the worker's own name, which no other process has.  ARGV[2]: its JSON without its last brace.
-- ARGV, 2 a model from ARGV[3]: its name, its JSON without its last brace.
-- Reply: OK.
-- Invariant: as long as a worker serves a model, its announcement stays; one that fails to load it says so of itself alone.
-- Invariant: of copies that differ the one shown stays as long as another worker serves it: the catalogue does not go back and forth.
local now = seconds()
local served = {}
redis.call("DEL", NOTHING)  -- as allow_when_full of _records.lua
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
  local shown_model = others and redis.call("HGET", KEYS[1], name)
  local shown_digest = shown_model and string.match(shown_model, '"digest":"(%x+)"')
  local differs = shown_digest and shown_digest ~= string.match(ARGV[at + 1], '"digest":"(%x+)"')
  if not (others and (failing[name] or (differs and others[shown_digest]))) then
    redis.call("HSET", KEYS[1], ARGV[at], string.format('%s,"seen_at":%.4f}', ARGV[at + 1], now))
  end
end
redis.call("HSET", KEYS[2], ARGV[1], string.format('%s,"seen_at":%.4f}', ARGV[2], now))
return redis.status_reply("OK")
