-- Claims an event. The hash at KEYS[1] is its job:
--   a field for each event: "claimed <token> <until, µs> <claim>", "released <token> <claim>" or
--           "settled <token>"
--   "token"    the last token that was given
--   "last"     the greatest time of the settled events, as 29 digits
--   "version"  1, the shape of all this. The first releases wrote none, and mean 1. They read and
--              write the rest as it is here, so both can run side by side.
-- No event's field has one of these names: each event has a space or a colon in its own.
-- ARGV: event, its time or '', lease in µs, time-to-live in ms, what names this very claim
-- Each script answers: its own name, what names the call, the answer, a number.
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
        -- Asked a second time, because the first answer was lost.
        if by == claim then
            return {'claim', claim, 'granted', tonumber(token)}
        end
        return {'claim', claim, 'in flight', 0}
    end
end
-- It was asked a second time, and has been given back: this is the first, which comes late, and
-- nobody waits for it any more.
if state == 'released' and string.match(held[1], '^released %d+ (%x+)$') == claim then
    return {'claim', claim, 'in flight', 0}
end
if held[2] and at ~= '' and at < held[2] then
    return {'claim', claim, 'stale', 0}
end

-- By the clock, and so it goes on growing when the job has been forgotten.
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
