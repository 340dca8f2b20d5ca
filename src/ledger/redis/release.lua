-- Releases a claim. `claim.lua` describes the hash at KEYS[1] and the reply.
-- ARGV: the event, the token of the claim, the id of this call
local event, token, call = ARGV[1], ARGV[2], ARGV[3]

-- Deletes nothing, because no version has a field with this name. If the server is read-only, this write
-- fails, even if the server does not have the claim yet.
redis.call('HDEL', KEYS[1], 'probe')
local held = redis.call('HMGET', KEYS[1], event, 'version')
if held[2] and held[2] ~= '1' then
    return {'release', call, 'unknown version', 0}
end
local by, claim = string.match(held[1] or '', '^claimed (%d+) %d+ (%x+)$')
if by == token then
    redis.call('HSET', KEYS[1], event, 'released ' .. token .. ' ' .. claim)
end
return {'release', call, 'released', 0}
