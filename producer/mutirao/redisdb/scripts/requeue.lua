-- Put reserved requests back to the head of their queues, the oldest first in line.
-- KEYS[1]: a worker's reservations.
-- ARGV[1]: "these" or "all but".  ARGV[2]: the worker's name.  ARGV[3]: "1" where records are on this server.
-- ARGV[4]: the digest of the copy of their model that refuses them; "" for none.
-- ARGV, 1 a request from ARGV[5]: its tag.
-- Reply: how many were put back.
-- Invariant: what is put back is no longer reserved, in the same step.
local named, fields = {}, {}
though_full()
for i = 5, #ARGV do
  named[ARGV[i]] = true
end
for _, field in ipairs(redis.call("HKEYS", KEYS[1])) do
  if (named[parts_of(field)] or false) == (ARGV[1] == "these") then
    fields[#fields + 1] = field
  end
end

-- Note in an envelope which copy refuses it; `attempts` stays the first of its headers.
local function refused(envelope)
  local before, rest = string.match(envelope, '^(.-"headers":%s*{)(.*)$')
  if ARGV[4] == "" or not before then
    return envelope
  end
  local attempts = string.match(rest, '^"attempts":%d+,') or ""
  rest = string.sub(rest, #attempts + 1)
  local told = string.match(rest, '^"refused_by":"([%x ]*)",')
  if told then
    rest = string.match(rest, '^"refused_by":"[%x ]*",(.*)$')
  end
  if not string.find(" " .. (told or "") .. " ", " " .. ARGV[4] .. " ", 1, true) then
    told = (told and told .. " " or "") .. ARGV[4]
  end
  return before .. attempts .. '"refused_by":"' .. told .. '",' .. rest
end

local how = ARGV[4] == "" and "given back" or "handed over"
local rung, now = {}, seconds()
for _, field in ipairs(oldest_last(fields)) do
  local _, key = parts_of(field)
  local envelope = redis.call("HGET", KEYS[1], field)
  put_back(key, refused(envelope))
  redis.call("HDEL", KEYS[1], field)
  if ARGV[3] == "1" then
    requeued(string.match(envelope, '"id":%s*"([^"]*)"') or "", ARGV[2], how, now)
  end
  rung[string.match(key, "^([^\6]*)")] = true
end
for queue in pairs(rung) do
  redis.call("LPUSH", BELL .. queue, "1")
  redis.call("LTRIM", BELL .. queue, 0, 7)
end
return #fields
