-- Put reserved requests back to the head of their queues, the oldest foremost.
-- KEYS[1]: a worker's reservations.
-- ARGV[1]: "these" or "all but".  ARGV[2]: the worker's name.  ARGV[3]: "1" where records are on this server.
-- ARGV[4]: the digest of the copy of their model that refuses them; "" for none.
-- ARGV, 1 a request from ARGV[5]: its tag.
-- Reply: how many were put back.
-- Invariant: a request is put back and its reservation dropped in one step.
local tags, fields = {}, {}
allow_when_full()
for i = 5, #ARGV do
  tags[ARGV[i]] = true
end
for _, field in ipairs(redis.call("HKEYS", KEYS[1])) do
  if (tags[parts_of_field(field)] or false) == (ARGV[1] == "these") then
    fields[#fields + 1] = field
  end
end

-- Return the envelope with the copy that refuses it in its headers; `attempts` stays the first of them.
local function with_refusal(envelope)
  local before, rest = string.match(envelope, '^(.-"headers":%s*{)(.*)$')
  if ARGV[4] == "" or not before then
    return envelope
  end
  local attempts = string.match(rest, '^"attempts":%d+,') or ""
  rest = string.sub(rest, #attempts + 1)
  local digests = string.match(rest, '^"refused_by":"([%x ]*)",')
  if digests then
    rest = string.match(rest, '^"refused_by":"[%x ]*",(.*)$')
  end
  if not string.find(" " .. (digests or "") .. " ", " " .. ARGV[4] .. " ", 1, true) then
    digests = (digests and digests .. " " or "") .. ARGV[4]
  end
  return before .. attempts .. '"refused_by":"' .. digests .. '",' .. rest
end

local how = ARGV[4] == "" and "given back" or "handed over"
local woken, now = {}, seconds()
for _, field in ipairs(oldest_last(fields)) do
  local _, key = parts_of_field(field)
  local envelope = redis.call("HGET", KEYS[1], field)
  return_to_head(key, with_refusal(envelope))
  redis.call("HDEL", KEYS[1], field)
  if ARGV[3] == "1" then
    record_requeue(string.match(envelope, '"id":%s*"([^"]*)"') or "", ARGV[2], how, now)
  end
  woken[string.match(key, "^([^\6]*)")] = true
end
for queue in pairs(woken) do
  redis.call("LPUSH", WAKEUP .. queue, "1")
  redis.call("LTRIM", WAKEUP .. queue, 0, 7)
end
return #fields
