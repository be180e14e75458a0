-- Move requests from their queues into this worker's reservations, in one step.
-- KEYS[1]: the leases.  KEYS[2]: the workers' free slots.  KEYS[3]: this worker's reservations.
-- ARGV[1]: the worker.  ARGV[2]: its lease in seconds.  ARGV[3]: its free slots.  ARGV[4]: how many more slots it has in a moment.
-- ARGV[5]: the last tag it gave.  ARGV[6]: how many times it has reserved.  ARGV[7]: "1" where records are on this server.
-- ARGV[8]: how long an ended record is kept, in seconds.  ARGV[9]: the time of ending, as Celery writes it.
-- ARGV[10]: the separator of kombu's priority steps.
-- ARGV[11]: "1" where the call was sent before anything waited: it takes nothing once the worker has no lease.
-- ARGV, 4 a queue from ARGV[12]: its name, the most requests that a free slot may get, the most to take ahead for busy slots,
--   how many are held for these already.
-- Reply: {now, 1 if the lease had lapsed, those of the queues in which something is left, how many jobs have ever been cancelled,
--   the earliest deadline of what is taken ("" for none), {list key, envelope, ...} taken, in the order of their tags,
--   {list key, envelope, why, ...} ended before they could be taken}; nil where it was sent early and nothing is to be done.
-- Invariant: an envelope is always in exactly one place: a queue's list, one worker's reservations, or ended.
-- Invariant: a tenant whose lists are all empty is not in the rotation of the queue.
-- Redis undoes nothing of a script that it stops half-way, as at a key of another type: what had been taken is then put back here.
local worker, free_slots, slots_soon = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local tag, round, recorded = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == "1"
local FIRST, STEPS, FEW = 12, {"", "3", "6", "9"}, 8

if ARGV[11] == "1" then
  local keys = {}
  for at = FIRST, #ARGV, 4 do
    for _, step in ipairs(STEPS) do
      keys[#keys + 1] = step == "" and ARGV[at] or ARGV[at] .. ARGV[10] .. step
    end
    keys[#keys + 1] = TENANTS .. ARGV[at]
  end
  if redis.call("EXISTS", unpack(keys)) == 0 or not redis.call("ZSCORE", KEYS[1], worker) then
    return false
  end
end

local now = seconds()
local lapsed = 0
allow_when_full()
if redis.call("ZADD", KEYS[1], "XX", "CH", now + tonumber(ARGV[2]), worker) == 0 then
  lapsed = redis.call("ZADD", KEYS[1], now + tonumber(ARGV[2]), worker)
end

-- Return how many slots of other live workers could serve a queue now, and how many such workers there are.
local function other_workers(queue)
  local members = redis.call("SMEMBERS", CONSUMERS .. queue)
  if #members < 2 then
    return 0, 0
  end
  local leases, slots = redis.call("ZMSCORE", KEYS[1], unpack(members)), redis.call("HMGET", KEYS[2], unpack(members))
  local idle, count = 0, 0
  for i, member in ipairs(members) do
    if not leases[i] then
      redis.call("SREM", CONSUMERS .. queue, member)
    elseif member ~= worker and tonumber(leases[i]) > now then
      idle, count = idle + tonumber(slots[i] or 0), count + 1
    end
  end
  return idle, count
end

-- Return how many requests of a queue this worker takes. What other workers could start at once is left to them. More is taken ahead
-- only where they are full, and so that all workers hold alike.
local function share_of_worker(queue, waiting, per_slot, take_ahead, held)
  local idle, count = other_workers(queue)
  local share = free_slots > 0 and math.min(math.ceil(waiting * free_slots / (free_slots + idle)), free_slots * per_slot) or 0
  local rest = waiting - share - idle * per_slot
  if rest > 0 and take_ahead > 0 then
    share = share + math.max(0, math.min(take_ahead, math.ceil((rest + held) / (count + 1)) - held))
  end
  return math.min(share, waiting)
end

local taken, ended_before, left = {}, {}, {}
local entries, ids, keys, earliest = {}, {}, {}, math.huge
local reserved = false

-- Return a tenant that waits in a queue: its lists, and what it has been served; "" is the tenant of the stock lists.
local function waiting_tenant(queue, tenant, served)
  local found = {tenant = tenant, served = served, lists = {}, lengths = {}, waiting = 0, share = 0, got = 0, cost = 0}
  for i, step in ipairs(STEPS) do
    local list = step == "" and queue or queue .. ARGV[10] .. step
    if tenant ~= "" then
      list = queue .. ARGV[10] .. (step == "" and "0" or step) .. ARGV[10] .. tenant
    end
    found.lists[i], found.lengths[i] = list, redis.call("LLEN", list)
    found.waiting = found.waiting + found.lengths[i]
  end
  return found
end

-- Return the tenants that wait in a queue, as many as may get a share, the least served first; how many requests wait; the key of
-- the rotation, nil where the queue is not shared.
local function waiting_tenants(queue, max_tenants)
  local rotation, stock = TENANTS .. queue, waiting_tenant(queue, "", 0)
  local members = redis.call("ZRANGE", rotation, 0, math.max(1, max_tenants - 1), "WITHSCORES")
  if #members == 0 then
    return {stock}, stock.waiting, nil
  end
  if stock.waiting > 0 then
    join_rotation(queue, "")
    members = redis.call("ZRANGE", rotation, 0, math.max(1, max_tenants - 1), "WITHSCORES")
  end
  local found, waiting = {}, math.max(0, redis.call("ZCARD", rotation) - #members / 2)
  for i = 1, #members, 2 do
    local each = members[i] == "" and stock or waiting_tenant(queue, members[i], 0)
    each.served = tonumber(members[i + 1])
    if each.waiting > 0 then
      found[#found + 1] = each
      waiting = waiting + each.waiting
    else
      redis.call("ZREM", rotation, members[i])
    end
  end
  return found, waiting, rotation
end

-- Divide the requests that are taken among the tenants: the least served first, until all have been served alike.
local function share_out(tenants, count)
  while count > 0 do
    local least, above, group = math.huge, math.huge, {}
    for _, each in ipairs(tenants) do
      if each.share < each.waiting then
        local level = each.served + each.share
        if level < least then
          least, above, group = level, least, {each}
        elseif level == least then
          group[#group + 1] = each
        else
          above = math.min(above, level)
        end
      end
    end
    if #group == 0 then
      return
    end
    local by = math.min(math.max(1, math.floor(count / #group)), above - least)
    for _, each in ipairs(group) do
      local more = math.min(by, each.waiting - each.share, count)
      each.share, count = each.share + more, count - more
    end
  end
end

-- Pop requests from one of a tenant's lists, and count them; return how many.
local function pop(from, i, count)
  local key = from.lists[i]
  local popped = count >= 1 and redis.call("RPOP", key, count)
  if not popped then
    return 0
  end
  for _, envelope in ipairs(popped) do
    entries[#entries + 1] = {key, envelope}
  end
  -- For few requests reading their rows costs less than reading whether any has several.
  local counted_rows = #popped > FEW and tonumber(redis.call("HGET", LIST_COUNTS, "rows " .. key) or 0)
  local extra_rows = 0
  for _, envelope in ipairs(popped) do
    local id = string.match(envelope, '"id":%s*"([^"]*)"') or ""
    ids[#ids + 1] = id
    keys[#keys + 1] = RECORD .. id
    if counted_rows ~= 0 then
      extra_rows = extra_rows + extra_rows_of(envelope)
    end
  end
  redis.call("HINCRBY", LIST_COUNTS, key, #popped)
  from.lengths[i] = from.lengths[i] - #popped
  if from.lengths[i] == 0 and (extra_rows > 0 or (counted_rows or 0) ~= 0) then
    redis.call("HDEL", LIST_COUNTS, "rows " .. key)
  elseif extra_rows > 0 then
    redis.call("HINCRBY", LIST_COUNTS, "rows " .. key, -extra_rows)
  end
  from.got, from.cost = from.got + #popped, from.cost + #popped + extra_rows
  return #popped
end

-- Pop a tenant's share. Urgent requests go first, but an eighth of the share is kept for each lower step that waits, and every eighth
-- time the order is reversed, so that no priority starves.
local function take_share(from)
  local first, last, by, rest = 1, #STEPS, 1, from.share
  if round % 8 == 7 then
    first, last, by = #STEPS, 1, -1
  end
  for i = first, last, by do
    if from.lengths[i] > 0 and rest > 0 then
      local kept = 0
      for j = i + by, last, by do
        kept = kept + math.min(from.lengths[j], math.floor(from.share / 8))
      end
      rest = rest - pop(from, i, math.min(from.lengths[i], math.max(1, rest - kept)))
    end
  end
  for i = first, last, by do
    if rest > 0 then
      rest = rest - pop(from, i, rest)
    end
  end
end

-- Count in the rotation what each tenant was served. A tenant whose lists are empty leaves it; without tenants there is no rotation.
local function update_rotation(rotation, tenants)
  for _, each in ipairs(tenants) do
    if each.got > 0 and each.got >= each.waiting then
      redis.call("ZREM", rotation, each.tenant)
    elseif each.got > 0 then
      redis.call("ZINCRBY", rotation, each.cost, each.tenant)
    end
  end
  if redis.call("ZCARD", rotation) == 1 and redis.call("ZSCORE", rotation, "") then
    redis.call("DEL", rotation)
  end
end

local cancelled = "0"

-- Pop this worker's share of every queue into `entries`.
local function take_from_queues()
  for at = FIRST, #ARGV, 4 do
    local queue, per_slot, take_ahead = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    local tenants, waiting, rotation = waiting_tenants(queue, per_slot * free_slots + take_ahead)
    if waiting > 0 then
      local before = #entries
      share_out(tenants, share_of_worker(queue, waiting, per_slot, take_ahead, tonumber(ARGV[at + 3])))
      -- The smallest shares come first, so that they are in the next batch.
      table.sort(tenants, function(a, b) return a.share < b.share or (a.share == b.share and a.served < b.served) end)
      for _, each in ipairs(tenants) do
        take_share(each)
      end
      local got = #entries - before
      free_slots = math.max(0, free_slots - got)
      if waiting > got then
        left[#left + 1] = queue
        if redis.call("LLEN", WAKEUP .. queue) < 8 then
          redis.call("LPUSH", WAKEUP .. queue, "1")
        end
      else
        redis.call("DEL", WAKEUP .. queue)
      end
    end
    if rotation then
      update_rotation(rotation, tenants)
    end
  end
  redis.call("HSET", KEYS[2], worker, math.max(0, tonumber(ARGV[3]) + slots_soon - #entries))
end

-- Reserve what was popped, except for requests that have ended or expired.
local function reserve_taken()
  if recorded and #entries == 0 then
    cancelled = redis.call("GET", CANCELLED)
  elseif #entries > 0 then
    local documents = {}
    if recorded then
      keys[#keys + 1] = CANCELLED
      for from = 1, #keys, 1000 do
        for _, document in ipairs(redis.call("MGET", unpack(keys, from, math.min(from + 999, #keys)))) do
          documents[#documents + 1] = document
        end
      end
    end
    cancelled = documents[#entries + 1]
    local fields, groups = {}, {}
    for i, entry in ipairs(entries) do
      local document, reason = documents[i], nil
      if document then
        local status = status_of(document)
        if ended(status) then
          reason = status
        else
          local deadline = deadline_of(document)
          if deadline and deadline <= now and status == "QUEUED" then
            reason = "expired"
          elseif deadline and deadline < earliest then
            earliest = deadline
          end
        end
        if reason == "expired" then
          local reply = string.match(entry[2], '"reply":%s*"([^"]*)"')
          keep_and_publish(keys[i], revoked_record(document, ids[i], reason, ARGV[9], now), ARGV[8], reply, groups)
          redis.call("DEL", PAYLOAD .. ids[i] .. ":in")
        end
      end
      if reason then
        ended_before[#ended_before + 1], ended_before[#ended_before + 2], ended_before[#ended_before + 3] = entry[1], entry[2], reason
      else
        tag = tag + 1
        taken[#taken + 1], taken[#taken + 2] = entry[1], entry[2]
        fields[#fields + 1], fields[#fields + 2] = tag .. " " .. entry[1], entry[2]
      end
    end
    for from = 1, #fields, 1000 do
      redis.call("HSET", KEYS[3], unpack(fields, from, math.min(from + 999, #fields)))
    end
    reserved = true
    publish_groups(groups)
  end
end

local function return_all()
  for i = #entries, 1, -1 do
    redis.call("RPUSH", entries[i][1], entries[i][2])
    pcall(count_waiting, entries[i][1], 0)
  end
end

local succeeded, problem = pcall(take_from_queues)
if succeeded then
  succeeded, problem = pcall(reserve_taken)
end
if not succeeded then
  if not reserved then
    return_all()
  end
  return type(problem) == "table" and problem or redis.error_reply(problem)
end
return {string.format("%.6f", now), lapsed, left, cancelled or "0",
  earliest < math.huge and string.format("%.4f", earliest) or "", taken, ended_before}
