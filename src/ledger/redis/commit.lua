-- Settles an event. `claim.lua` describes the hash at KEYS[1] and the reply.
-- ARGV: the event, its time or '', the token of the claim, the time-to-live in ms, the id of this call
local event, at, token, ttl, call = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local held = redis.call('HMGET', KEYS[1], event, 'last', 'token', 'version')
if held[4] and held[4] ~= '1' then
    return {'commit', call, 'unknown version', 0}
end
local first = string.match(held[1] or '', '^settled (%d+)')
if first and first ~= token then
    -- Writes the same value again, because WAIT covers only the writes of its own connection.
    redis.call('HSET', KEYS[1], event, held[1])
    return {'commit', call, 'overtaken', 0}
end
-- The holder has succeeded, so the event is settled whatever has happened to the claim. Another holder
-- may have it by now, it may have been released, or a server may have lost it.
redis.call('HSET', KEYS[1], 'version', '1', event, 'settled ' .. token)
if not held[3] or tonumber(held[3]) < tonumber(token) then
    redis.call('HSET', KEYS[1], 'token', token)
end
if at ~= '' and (not held[2] or held[2] < at) then
    redis.call('HSET', KEYS[1], 'last', at)
end
if redis.call('PTTL', KEYS[1]) < tonumber(ttl) then
    redis.call('PEXPIRE', KEYS[1], ttl)
end
return {'commit', call, 'settled', 0}
