-- The keys of a watch. Each key and the channel begin with the same words, which end with a hash tag:
--   <…>due            a sorted set of the jobs that are due, by the time in µs. This is KEYS[1].
--   <…>entry:<guid>   what is known of a job, a hash with these fields:
--       "entry"     the bytes
--       "revision"  a number that is different after each change
--       "stored"    when the entry was stored, in µs
--       "call"      the id of the call that stored it
--       "version"   the version of this format, 1
--   <…>changed        the channel, on which the guids of jobs are published
-- Times are the server's. Each script replies with its name, the id of the call, the answer, and a list.
local base = string.sub(KEYS[1], 1, -4)
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local function digits(number)
    return string.format('%.0f', number)
end

local function is_number(text)
    return text and string.match(text, '^%d+$') and tonumber(text) < 9007199254740991
end

-- Returns the entry of a job, nil if it has none, or false if this version cannot read it.
local function read(guid)
    local key = base .. 'entry:' .. guid
    local held = redis.pcall('HMGET', key, 'version', 'entry', 'revision', 'stored', 'call')
    if held.err then
        if string.find(held.err, 'WRONGTYPE', 1, true) then
            return false
        end
        redis.call('HMGET', key, 'version') -- Fails in the same way.
    end
    if not held[1] and redis.call('EXISTS', key) == 0 then
        return nil
    end
    if held[1] ~= '1' or not held[2] or not is_number(held[3]) or not is_number(held[4]) then
        return false
    end
    return {entry = held[2], revision = held[3], stored = held[4], call = held[5]}
end

-- Returns a revision that the job has not had. It comes from the clock, so it is also another one after
-- the entry has expired.
local function next_revision(held)
    if held and tonumber(held.revision) >= now then
        return digits(tonumber(held.revision) + 1)
    end
    return digits(now)
end

local function row(guid, held)
    return {guid, held.entry, held.revision, digits(math.max(now - held.stored, 0))}
end

-- Changes nothing, because no guid is empty. It fails on a read-only server, whose entries may be old.
local function require_master()
    redis.call('ZREM', KEYS[1], '')
end
