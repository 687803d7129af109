-- SPDX-License-Identifier: GPL-2.0-or-later
--[[
What Wireshark 4.0 does not show of Fibre Channel, or shows wrongly:

  * primitive signals and sequences (R_RDY, VC_RDY n, BB_SCs, ...) in records of link type 225 that are at most eight
    bytes long; without this script they are "Malformed Packet";
  * the extended link services FPIN, EDC and RDF with their descriptors, and the accepts of the last two (FC-LS-5);
  * ELP and its accept at their true offsets (FC-SW): Wireshark's own tree is four bytes off and has no BB_SC_N.

Use: wireshark -X lua_script:sancredit.lua FILE, or put it into the personal Lua plugin folder. The names of all
fields begin with "sancredit.". It builds on Wireshark's API and has Wireshark's licence.
]]

local encapsulations = wtap_encaps or wtap
local DELIMITED = encapsulations.FIBRE_CHANNEL_FC2_WITH_FRAME_DELIMS
local PRIMITIVES_BYTES = 8
local WORD = 4
local FC_HEADER_BYTES = 24
local TYPE_ELS, TYPE_SW_ILS = 0x01, 0x22
local LS_ACC, FPIN, EDC, RDF = 0x02, 0x16, 0x17, 0x19
local SW_ACC, ELP = 0x02, 0x10
local ELP_FIXED_BYTES = 84

-- ordered sets ------------------------------------------------------------------------------------------------------

local sancredit = Proto("sancredit", "Fibre Channel buffer credits")
local primitives = Proto("fcprimitive", "Fibre Channel primitive")

local PRIMITIVES = {
    [0xBC95B5B5] = "IDLE", [0xBC954A4A] = "R_RDY", [0xBC959696] = "BB_SCs", [0xBC95D6D6] = "BB_SCr",
    [0xBC358A55] = "OLS", [0xBC55BF45] = "NOS", [0xBC49BF49] = "LR", [0xBC35BF49] = "LRR",
}
local VC_RDY_START, ARB_START = 0xBCF5, 0xBC94

local f_word = ProtoField.uint32("sancredit.primitive.word", "Word", base.HEX)
local f_primitive = ProtoField.string("sancredit.primitive", "Primitive")
local f_channel = ProtoField.uint8("sancredit.primitive.vc", "Virtual channel")
local f_arb = ProtoField.uint8("sancredit.primitive.arb", "ARB value", base.HEX)
primitives.fields = { f_word, f_primitive, f_channel, f_arb }

local function primitive_name(range)
    local word = range:uint()
    local start, third, fourth = range(0, 2):uint(), range(2, 1):uint(), range(3, 1):uint()
    if PRIMITIVES[word] then
        return PRIMITIVES[word]
    elseif third == fourth and start == VC_RDY_START then
        return "VC_RDY " .. third, f_channel
    elseif third == fourth and start == ARB_START then
        return string.format("ARB(%02X)", third), f_arb
    end
    return string.format("ordered set %08x", word)
end

function primitives.dissector(buffer, pinfo, tree)
    pinfo.cols.protocol = "FC"
    local names = {}
    for offset = 0, buffer:len() - WORD, WORD do
        local range = buffer(offset, WORD)
        local name, parameter = primitive_name(range)
        local branch = tree:add(primitives, range, "Fibre Channel primitive: " .. name)
        branch:add(f_word, range)
        branch:add(f_primitive, range, name)
        if parameter then
            branch:add(parameter, range(2, 1))
        end
        names[#names + 1] = name
    end
    pinfo.cols.info = table.concat(names, ", ")
    return buffer:len()
end

local frames = DissectorTable.get("wtap_encap"):get_dissector(DELIMITED)
local delimited = Proto("fcdelimited", "Fibre Channel with delimiters")

function delimited.dissector(buffer, pinfo, tree)
    local length = buffer:len()
    if length > 0 and length <= PRIMITIVES_BYTES and length % WORD == 0 and buffer(0, 1):uint() == 0xBC then
        return primitives.dissector(buffer, pinfo, tree)
    end
    return frames:call(buffer, pinfo, tree)
end

DissectorTable.get("wtap_encap"):add(DELIMITED, delimited)

-- descriptors of FPIN, EDC and RDF ----------------------------------------------------------------------------------

local SERVICES = { [FPIN] = "FPIN", [EDC] = "EDC", [RDF] = "RDF", [LS_ACC] = "LS_ACC" }
local TAGS = {
    [0x00000001] = "Link service request information", [0x0001000D] = "Link fault capability",
    [0x0001000F] = "Congestion signal capability", [0x00020001] = "Link integrity notification",
    [0x00020002] = "Delivery notification", [0x00020003] = "Peer congestion notification",
    [0x00020004] = "Congestion notification", [0x00030001] = "FPIN registration",
}
local LINK_EVENTS = {
    [0] = "unknown", "link failure", "loss of synchronization", "loss of signal", "primitive sequence protocol error",
    "invalid transmission word", "invalid CRC", [15] = "device specific",
}
local DELIVERY_REASONS = { [0] = "unknown", "timeout", "unable to route", [15] = "device specific" }
local CONGESTION_EVENTS = { [0] = "clear", "lost credit", "credit stall", "oversubscription", [15] = "device specific" }
local SEVERITIES = { [0xF1] = "warning", [0xF7] = "alarm" }
local CAPABILITIES = { [0] = "none", "warning", "warning and alarm" }
local UNITS = { "s", "ms" }

local fields = {}
local function field(kind, name, label, ...)
    local one = ProtoField[kind]("sancredit." .. name, label, ...)
    fields[#fields + 1] = one
    return one
end

local f_service = field("uint8", "els.command", "Command", base.HEX, SERVICES)
local f_list_length = field("uint32", "els.descriptor_list_length", "Descriptor list length")
local f_tag = field("uint32", "descriptor.tag", "Tag", base.HEX, TAGS)
local f_length = field("uint32", "descriptor.length", "Length")
local f_body = field("bytes", "descriptor.body", "Body")
local f_request = field("uint8", "lsri.request", "Request", base.HEX, SERVICES)
local f_activate = field("uint32", "link_fault.degrade_activate_threshold", "Degrade activate threshold")
local f_deactivate = field("uint32", "link_fault.degrade_deactivate_threshold", "Degrade deactivate threshold")
local f_interval = field("uint32", "link_fault.fec_degrade_interval", "FEC degrade interval (ms)")
local f_tx_capability = field("uint32", "edc.transmit_capability", "Transmit capability", base.DEC, CAPABILITIES)
local f_tx_count = field("uint16", "edc.transmit_frequency_count", "Transmit frequency")
local f_tx_unit = field("uint16", "edc.transmit_frequency_unit", "Transmit frequency unit", base.DEC, UNITS)
local f_rx_capability = field("uint32", "edc.receive_capability", "Receive capability", base.DEC, CAPABILITIES)
local f_rx_count = field("uint16", "edc.receive_frequency_count", "Receive frequency")
local f_rx_unit = field("uint16", "edc.receive_frequency_unit", "Receive frequency unit", base.DEC, UNITS)
local f_detecting = field("uint64", "fpin.detecting_port_name", "Detecting port name", base.HEX)
local f_attached = field("uint64", "fpin.attached_port_name", "Attached port name", base.HEX)
local f_link_event = field("uint16", "fpin.link_integrity.event_type", "Event", base.DEC, LINK_EVENTS)
local f_event = field("uint16", "fpin.congestion.event_type", "Event", base.DEC, CONGESTION_EVENTS)
local f_modifier = field("uint16", "fpin.event_modifier", "Event modifier", base.HEX)
local f_threshold = field("uint32", "fpin.event_threshold", "Event threshold (ms)")
local f_count = field("uint32", "fpin.event_count", "Event count")
local f_period = field("uint32", "fpin.event_period", "Event period (ms)")
local f_severity = field("uint8", "fpin.congestion.severity", "Severity", base.HEX, SEVERITIES)
local f_reason = field("uint32", "fpin.delivery.reason", "Reason", base.DEC, DELIVERY_REASONS)
local f_names = field("uint32", "fpin.pname_count", "Port names")
local f_name = field("uint64", "fpin.pname", "Port name", base.HEX)
local f_tags = field("uint32", "rdf.tag_count", "Descriptor tags")
local f_wanted = field("uint32", "rdf.descriptor_tag", "Descriptor tag", base.HEX, TAGS)

-- Each descriptor: (offset in the body, size, field), then perhaps a list: (offset of its count, element size, field).
local EVENT = { { 0, 8, f_detecting }, { 8, 8, f_attached } }
local BODIES = {
    [0x00000001] = { { 0, 1, f_request } },
    [0x0001000D] = { { 0, 4, f_activate }, { 4, 4, f_deactivate }, { 8, 4, f_interval } },
    [0x0001000F] = {
        { 0, 4, f_tx_capability }, { 4, 2, f_tx_count }, { 6, 2, f_tx_unit },
        { 8, 4, f_rx_capability }, { 12, 2, f_rx_count }, { 14, 2, f_rx_unit },
    },
    [0x00020001] = {
        EVENT[1], EVENT[2], { 16, 2, f_link_event }, { 18, 2, f_modifier }, { 20, 4, f_threshold }, { 24, 4, f_count },
        list = { 28, 8, f_names, f_name },
    },
    [0x00020002] = { EVENT[1], EVENT[2], { 16, 4, f_reason } },
    [0x00020003] = {
        EVENT[1], EVENT[2], { 16, 2, f_event }, { 18, 2, f_modifier }, { 20, 4, f_period },
        list = { 24, 8, f_names, f_name },
    },
    [0x00020004] = { { 0, 2, f_event }, { 2, 2, f_modifier }, { 4, 4, f_period }, { 8, 1, f_severity } },
    [0x00030001] = { list = { 0, 4, f_tags, f_wanted } },
}

local function add_body(tree, tag, body)
    local layout = BODIES[tag]
    if not layout then
        if body:len() > 0 then
            tree:add(f_body, body)
        end
        return
    end
    for _, part in ipairs(layout) do
        if part[1] + part[2] <= body:len() then
            tree:add(part[3], body(part[1], part[2]))
        end
    end
    local list = layout.list
    if list and list[1] + WORD <= body:len() then
        tree:add(list[3], body(list[1], WORD))
        local offset, left = list[1] + WORD, body(list[1], WORD):uint()
        while left > 0 and offset + list[2] <= body:len() do
            tree:add(list[4], body(offset, list[2]))
            offset, left = offset + list[2], left - 1
        end
    end
end

local function add_notice(tree, payload)
    if payload:len() < 8 then
        return nil
    end
    local code, stop = payload(0, 1):uint(), 8 + payload(4, 4):uint()
    local offset, names = 8, {}
    if stop > payload:len() then
        return nil
    end
    local branch = tree:add(sancredit, payload(0, stop), (SERVICES[code] or "ELS") .. " (FC-LS-5)")
    branch:add(f_service, payload(0, 1))
    branch:add(f_list_length, payload(4, 4))
    while offset + 8 <= stop do
        local tag, length = payload(offset, 4):uint(), payload(offset + 4, 4):uint()
        if offset + 8 + length > stop then
            break
        end
        local name = TAGS[tag] or string.format("Descriptor %08x", tag)
        local leaf = branch:add(payload(offset, 8 + length), name)
        leaf:add(f_tag, payload(offset, 4))
        leaf:add(f_length, payload(offset + 4, 4))
        if length > 0 then
            add_body(leaf, tag, payload(offset + 8, length))
        end
        names[#names + 1] = name
        offset = offset + 8 + length
    end
    return (SERVICES[code] or "ELS") .. ": " .. table.concat(names, ", ")
end

-- ELP ---------------------------------------------------------------------------------------------------------------

local MODES = { "vendor unique (VC_RDY)", "R_RDY" }
local COMMANDS = { [ELP] = "ELP", [SW_ACC] = "SW_ACC of ELP" }
local ELP_PARTS = {
    { 0, 1, field("uint8", "elp.command", "Command", base.HEX, COMMANDS) },
    { 4, 1, field("uint8", "elp.revision", "Revision") },
    { 5, 2, field("uint16", "elp.flags", "Flags", base.HEX) },
    { 7, 1, field("uint8", "elp.bb_sc_n", "BB_SC_N") },
    { 8, 4, field("uint32", "elp.r_a_tov", "R_A_TOV (ms)") },
    { 12, 4, field("uint32", "elp.e_d_tov", "E_D_TOV (ms)") },
    { 16, 8, field("uint64", "elp.port_name", "Port name", base.HEX) },
    { 24, 8, field("uint64", "elp.switch_name", "Switch name", base.HEX) },
    { 32, 2, field("uint16", "elp.class_f.options", "Class F service options", base.HEX) },
    { 38, 2, field("uint16", "elp.class_f.receive_data_field_size", "Class F receive data field size") },
    { 40, 2, field("uint16", "elp.class_f.concurrent_sequences", "Class F concurrent sequences") },
    { 42, 2, field("uint16", "elp.class_f.ee_credit", "Class F EE_Credit") },
    { 44, 2, field("uint16", "elp.class_f.open_sequences", "Class F open sequences per exchange") },
    { 48, 2, field("uint16", "elp.class_1.options", "Class 1 options", base.HEX) },
    { 50, 2, field("uint16", "elp.class_1.receive_data_field_size", "Class 1 receive data field size") },
    { 52, 2, field("uint16", "elp.class_2.options", "Class 2 options", base.HEX) },
    { 54, 2, field("uint16", "elp.class_2.receive_data_field_size", "Class 2 receive data field size") },
    { 56, 2, field("uint16", "elp.class_3.options", "Class 3 options", base.HEX) },
    { 58, 2, field("uint16", "elp.class_3.receive_data_field_size", "Class 3 receive data field size") },
    { 80, 2, field("uint16", "elp.flow_control_mode", "ISL flow control mode", base.HEX, MODES) },
    { 82, 2, field("uint16", "elp.flow_control_length", "Flow control parameter length") },
    { 84, 4, field("uint32", "elp.bb_credit", "BB_Credit") },
}
local f_compatibility = field("bytes", "elp.compatibility", "Compatibility parameters")

local function add_elp(tree, payload)
    local parameters = payload(82, 2):uint()
    local stop = ELP_FIXED_BYTES + parameters
    local branch = tree:add(sancredit, payload(0, stop), "Exchange Link Parameters at their true offsets (FC-SW)")
    for _, part in ipairs(ELP_PARTS) do
        if part[1] + part[2] <= stop then
            branch:add(part[3], payload(part[1], part[2]))
        end
    end
    if parameters > WORD then
        branch:add(f_compatibility, payload(ELP_FIXED_BYTES + WORD, parameters - WORD))
    end
    if parameters < WORD then
        return COMMANDS[payload(0, 1):uint()]
    end
    return string.format("%s: BB_Credit %d, BB_SC_N %d", COMMANDS[payload(0, 1):uint()], payload(84, 4):uint(),
        payload(7, 1):uint())
end

-- An accept does not say what it answers: it is taken for that of an ELP when its lengths and its revision fit.
local function is_elp(payload, reply)
    if payload:len() < ELP_FIXED_BYTES then
        return false
    end
    local length = payload(82, 2):uint()
    if payload(0, 1):uint() == ELP then
        return ELP_FIXED_BYTES + length <= payload:len()
    end
    return reply and payload(0, 1):uint() == SW_ACC and payload(4, 1):uint() > 0 and length >= WORD
        and ELP_FIXED_BYTES + length <= payload:len() and ELP_FIXED_BYTES + length + 8 >= payload:len()
end

-- An accept of EDC or RDF begins its descriptors with the name of the request.
local function is_notice(payload)
    local code = payload(0, 1):uint()
    if code == FPIN or code == EDC or code == RDF then
        return true
    end
    if code ~= LS_ACC or payload:len() < 20 or payload(8, 4):uint() ~= 1 or payload(12, 4):uint() ~= 4 then
        return false
    end
    local request = payload(16, 1):uint()
    return request == EDC or request == RDF
end

sancredit.fields = fields
local r_ctl_fields = Field.new("fc.r_ctl")

function sancredit.dissector(buffer, pinfo, tree)
    for _, info in ipairs({ r_ctl_fields() }) do
        local source = info.source
        local start = info.offset + FC_HEADER_BYTES
        if source and start + WORD <= source:len() then
            local r_ctl, kind = info.value, source(info.offset + 8, 1):uint()
            local payload = source(start, source:len() - start)
            local summary
            if kind == TYPE_ELS and (r_ctl == 0x22 or r_ctl == 0x23) and is_notice(payload) then
                summary = add_notice(tree, payload)
            elseif kind == TYPE_SW_ILS and is_elp(payload, r_ctl == 0x03) then
                summary = add_elp(tree, payload)
            end
            if summary then
                pinfo.cols.info:append(" [" .. summary .. "]")
            end
        end
    end
end

register_postdissector(sancredit, true)
