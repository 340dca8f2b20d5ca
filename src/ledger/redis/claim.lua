-- Claims an event. KEYS[1] is the key of the job, a hash with these fields:
--   one for each event: "claimed <token> <until, µs> <id of the claim>",
--           "released <token> <id of the claim>" or "settled <token>"
--   "token"    the latest token
--   "last"     the latest time of the settled events, as 29 digits
--   "version"  the version of this format, 1. The first releases wrote no version, and otherwise the
--              same fields, so both can run side by side.
-- An event's field contains a space or a colon, so it cannot have one of these names.
-- ARGV: the event, its time or '', the lease in µs, the time-to-live in ms, the id of this claim
-- Each script replies with its name, the id of the call, the answer, and a token or 0.
local event, at, lease, ttl, claim = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local held = redis.call('HMGET', KEYS[1], event, 'last', 'token', 'version')
if held[4] and held[4] ~= '1' then
    return {'claim', claim, 'unknown version', 0}
end
local state = string.match(held[1] or '', '^%a+')
if state == 'settled' then
    return {'claim', claim, 'settled', tonumber(string.match(held[1], '^settled (%d+)'))}
end
if state == 'claimed' then
    local token, ends, by = string.match(held[1], '^claimed (%d+) (%d+) (%x+)$')
    if tonumber(ends) > now then
        -- The call is repeated because its first answer was lost.
        if by == claim then
            return {'claim', claim, 'granted', tonumber(token)}
        end
        return {'claim', claim, 'in flight', 0}
    end
end
-- This claim was repeated, and then released. The call is the first one, which arrives late and has no
-- caller any more.
if state == 'released' and string.match(held[1], '^released %d+ (%x+)$') == claim then
    return {'claim', claim, 'in flight', 0}
end
if held[2] and at ~= '' and at < held[2] then
    return {'claim', claim, 'stale', 0}
end

-- The token comes from the clock, so it also grows after the job has been forgotten.
local token = now
if held[3] and tonumber(held[3]) >= token then
    token = held[3] + 1
end
local text = string.format('%.0f', token)
local ends = string.format('%.0f', now + lease)
redis.call('HSET', KEYS[1], 'version', '1', 'token', text,
    event, 'claimed ' .. text .. ' ' .. ends .. ' ' .. claim)
if redis.call('PTTL', KEYS[1]) < tonumber(ttl) then
    redis.call('PEXPIRE', KEYS[1], ttl)
end
return {'claim', claim, 'granted', token}
