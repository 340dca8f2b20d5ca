-- Returns the entries of jobs. `entry.lua` describes the keys and the reply.
-- ARGV: the guids, the id of this call
local call = ARGV[#ARGV]
require_master()
local found, unknown = {}, false
for index = 1, #ARGV - 1 do
    local held = read(ARGV[index])
    if held then
        found[#found + 1] = row(ARGV[index], held)
    elseif held == false then
        unknown = true
    end
end
-- An entry that this version cannot read does not hold up the others.
if unknown and #found == 0 then
    return {'load', call, 'unknown version', {}}
end
return {'load', call, 'loaded', found}
