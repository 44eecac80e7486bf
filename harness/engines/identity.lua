-- Who a client is, and whether a policy permits it, for HAProxy: the certificate is read field by field.
--
-- identities(der) returns the URI names of a certificate's subjectAltName extension (RFC 5280, 4.1 and 4.2.1.6), and
-- whether it is an authority's (4.2.1.9, 4.2.1.3); nil when the certificate cannot be read to its end. identity(der) is
-- the one URI name, if it is a SPIFFE ID on a leaf's certificate: the rules are those of programs/svid.py, with sources.
-- `policies` comes from policy.lua: name -> list of {permit = boolean, id = whole | prefix = beginning}; `key_log`
-- too, where secrets of TLS connections are to be written down: the file's path.

local BOOLEAN, BITS, OCTETS, OBJECT, SEQUENCE, URI, EXTENSIONS = 0x01, 0x03, 0x04, 0x06, 0x30, 0x86, 0xA3
local SUBJECT_ALT_NAME = "\x55\x1D\x11" -- 2.5.29.17
local KEY_USAGE, BASIC_CONSTRAINTS = "\x55\x1D\x0F", "\x55\x1D\x13" -- 2.5.29.15 and .19
local CERT_SIGN, CRL_SIGN = 0x04, 0x02 -- bits 5 and 6, from the left
local LONGEST, LONGEST_DOMAIN = 2048, 255

-- The elements of a DER string as a list of {tag, content}; raises an error for anything that is not DER.
local function elements(der)
    local found, at = {}, 1
    while at <= #der do
        local tag, length = der:byte(at, at + 1)
        if not length or tag & 0x1F == 0x1F then error("no DER") end
        at = at + 2
        if length >= 0x80 then
            local octets = length & 0x7F
            if octets == 0 or octets > 3 or at + octets - 1 > #der then error("no DER length") end
            length = 0
            for _ = 1, octets do
                length = length << 8 | der:byte(at)
                at = at + 1
            end
        end
        if at + length - 1 > #der then error("cut short") end
        found[#found + 1] = {tag = tag, content = der:sub(at, at + length - 1)}
        at = at + length
    end
    return found
end

local function only(list, tag)
    if #list ~= 1 or list[1].tag ~= tag then error("not the one element expected") end
    return list[1].content
end

local function is_true(flags)
    for _, flag in ipairs(elements(only(elements(flags), SEQUENCE))) do
        if flag.tag == BOOLEAN and flag.content ~= "\0" then return true end
    end
    return false
end

local function signs(usage)
    local bits = only(elements(usage), BITS)
    return (bits:byte(2) or 0) & (CERT_SIGN | CRL_SIGN) ~= 0
end

local function uri_names(der)
    local names, authority = {}, false
    local certificate = elements(only(elements(der), SEQUENCE))
    for _, field in ipairs(elements(certificate[1].content)) do
        if field.tag == EXTENSIONS then
            for _, extension in ipairs(elements(only(elements(field.content), SEQUENCE))) do
                local parts = elements(extension.content)
                local value = parts[#parts]
                if parts[1].tag ~= OBJECT or value.tag ~= OCTETS then error("no extension") end
                if parts[1].content == SUBJECT_ALT_NAME then
                    for _, name in ipairs(elements(only(elements(value.content), SEQUENCE))) do
                        if name.tag == URI then names[#names + 1] = name.content end
                    end
                elseif parts[1].content == BASIC_CONSTRAINTS then
                    authority = authority or is_true(value.content)
                elseif parts[1].content == KEY_USAGE then
                    authority = authority or signs(value.content)
                end
            end
        end
    end
    return names, authority
end

function identities(der)
    local read, names, authority = pcall(uri_names, der)
    if read then return names, authority end
    return nil
end

function is_spiffe_id(name)
    local domain, path = name:match("^spiffe://([a-z0-9._-]+)(/.+)$")
    if not domain or #domain > LONGEST_DOMAIN or #name > LONGEST then return false end
    for segment in (path .. "/"):sub(2):gmatch("([^/]*)/") do
        if segment == "." or segment == ".." or not segment:match("^[A-Za-z0-9._-]+$") then return false end
    end
    return true
end

function identity(der)
    local names, authority = identities(der)
    if not names or authority or #names ~= 1 or not is_spiffe_id(names[1]) then return nil end
    return names[1]
end

-- Whether an identity is permitted, and the rule that says so: its number from 0, or "no match".
function permitted(identity, rules)
    if identity then
        for index, rule in ipairs(rules) do
            if rule.id and identity == rule.id or rule.prefix and identity:sub(1, #rule.prefix) == rule.prefix then
                return rule.permit, index - 1
            end
        end
    end
    return false, "no match"
end

-- A JSON string: a byte that is not a plain character is written as \u00XX, so that one line stays one line.
function quoted(text)
    return '"' .. text:gsub('[^%w/:._~-]', function(c) return string.format("\\u%04x", c:byte()) end) .. '"'
end

-- The lines of a connection's secrets in NSS's key log format (draft-ietf-tls-keylogfile); TLS 1.2 has but one.
local SECRETS = {
    CLIENT_HANDSHAKE_TRAFFIC_SECRET = "ssl_fc_client_handshake_traffic_secret",
    SERVER_HANDSHAKE_TRAFFIC_SECRET = "ssl_fc_server_handshake_traffic_secret",
    CLIENT_TRAFFIC_SECRET_0 = "ssl_fc_client_traffic_secret_0",
    SERVER_TRAFFIC_SECRET_0 = "ssl_fc_server_traffic_secret_0",
    EXPORTER_SECRET = "ssl_fc_exporter_secret",
}

local function log_secrets(txn)
    local random = txn.c:hex(txn.f:ssl_fc_client_random() or ""):lower()
    local lines = {}
    if txn.f:ssl_fc_protocol() == "TLSv1.2" then
        lines[1] = "CLIENT_RANDOM " .. random .. " " .. txn.c:hex(txn.f:ssl_fc_session_key() or ""):lower() .. "\n"
    else
        for label, fetch in pairs(SECRETS) do
            local secret = txn.f[fetch](txn.f)
            if secret then lines[#lines + 1] = label .. " " .. random .. " " .. secret:lower() .. "\n" end
        end
    end
    local file = io.open(key_log, "a")
    if file then
        file:write(table.concat(lines)) -- in one piece, as all of it is shorter than the buffer
        file:close()
    end
end

if core then
    core.register_action("decide", {"tcp-req"}, function(txn, policy, server)
        if txn:get_var("txn.verdict") then return end -- rules are gone through again whenever more is received
        if key_log then log_secrets(txn) end
        local der = txn.f:ssl_c_der()
        local names = der and #der > 0 and identities(der) or {}
        local who = der and #der > 0 and identity(der) or nil
        local allowed, rule = permitted(who, policies[policy])
        local verdict = allowed and "PERMITTED" or "REJECTED"
        txn:set_var("txn.verdict", verdict)
        local shown = {}
        for index, name in ipairs(names) do shown[index] = quoted(name:sub(1, LONGEST)) end
        io.stdout:write(string.format(
            '{"event":"decision","conn":%s,"virtual_server":%s,"peer":"%s:%d","local":"%s:%d","policy":%s,'
                .. '"rule":%s,"verdict":"%s","identity":%s,"identities":[%s],"certificate":%s}\n',
            quoted(txn.f:unique_id()), quoted(server), txn.f:src(), txn.f:src_port(), txn.f:dst(), txn.f:dst_port(),
            quoted(policy), math.type(rule) and rule or quoted(rule), verdict,
            who and quoted(who) or "null", table.concat(shown, ","),
            der and #der > 0 and quoted(txn.c:hex(txn.c:sha2(der, 256)):lower()) or "null"))
        io.stdout:flush() -- before the client learns of it
    end, 2)
end
