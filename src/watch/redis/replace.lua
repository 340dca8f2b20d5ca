-- Replaces the entry of a job. `entry.lua` describes the keys and the reply.
-- ARGV: the guid, the revision that the caller knows or '', the bytes, when it is due ('unchanged', 'never',
-- or in so many µs), how long to keep it in ms or '', '1' to publish, '1' if WAIT follows, the id of this call
local guid, known, entry, due, keep, wakes, waits, call = unpack(ARGV)
local held = read(guid)
if held == false then
    return {'replace', call, 'unknown version', {}}
end
-- The caller can acknowledge what it finds here. WAIT covers only the writes of its own connection, so this
-- writes the same value again.
local function confirm()
    if waits == '1' and held then
        redis.call('HSET', base .. 'entry:' .. guid, 'version', '1')
    end
end

-- The call is repeated because its first answer was lost.
if held and held.call == call then
    confirm()
    return {'replace', call, 'done', {}}
end
if (held and held.revision or '') ~= known then
    require_master()
    confirm()
    return {'replace', call, 'conflict', held and {row(guid, held)} or {}}
end
-- Fails before anything is written, if the key has another type.
redis.call('ZSCORE', KEYS[1], guid)

local key = base .. 'entry:' .. guid
redis.call('HSET', key, 'version', '1', 'entry', entry, 'revision', next_revision(held),
    'stored', digits(now), 'call', call)
if keep == '' then
    redis.call('PERSIST', key)
else
    redis.call('PEXPIRE', key, keep)
end
-- An entry that has expired was due at a time that no longer matters.
if due == 'never' or (due == 'unchanged' and not held) then
    redis.call('ZREM', KEYS[1], guid)
elseif due ~= 'unchanged' then
    redis.call('ZADD', KEYS[1], digits(now + due), guid)
end
if wakes == '1' then
    redis.call('PUBLISH', base .. 'changed', guid)
end
return {'replace', call, 'done', {}}
