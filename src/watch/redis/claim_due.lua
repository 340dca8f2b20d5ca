-- Claims entries that are due. `entry.lua` describes the keys and the reply.
-- ARGV: how many at most, the lease in µs, the id of this call
local limit, lease, call = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local claimed, unknown = {}, 0
-- Bounds how long other calls wait for this one, if many entries are gone or unreadable.
local left = limit + 1000
while #claimed < limit and left > 0 do
    local count = math.min(limit - #claimed, left)
    local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', digits(now), 'LIMIT', unknown, count)
    if #due == 0 then
        break
    end
    for _, guid in ipairs(due) do
        left = left - 1
        local held = read(guid)
        if held then
            -- A lease of 0 would be due at once, and be claimed again by this call.
            redis.call('ZADD', KEYS[1], digits(now + math.max(lease, 1)), guid)
            held.revision = next_revision(held)
            redis.call('HSET', base .. 'entry:' .. guid, 'revision', held.revision)
            claimed[#claimed + 1] = row(guid, held)
        elseif held == nil then
            -- The server has lost the entry.
            redis.call('ZREM', KEYS[1], guid)
        else
            -- A later version has written it, and claims it.
            unknown = unknown + 1
        end
    end
end
if #claimed == 0 then
    require_master()
    if unknown > 0 then
        return {'claim_due', call, 'unknown version', {}}
    end
end
return {'claim_due', call, 'claimed', claimed}
