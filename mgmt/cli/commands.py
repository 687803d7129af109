"""The command tree: which function serves which command. The one place that names packages above mgmt.

A target is ``"module:object"`` of a :class:`click.Command`; it is imported when the command runs, so that
``sancredit --help`` stays fast and a command's missing library troubles that command alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Entry:
    """One command (``target``), or a group of commands (``children``), with its line in the group's help."""

    about: str
    target: str = ""
    children: Mapping[str, Entry] = field(default_factory=dict)
    example: str = ""


def _get(name: str, about: str) -> tuple[str, Entry]:
    return name, Entry(about, f"mgmt.cli.get:get_{name.replace('-', '_')}")


#: What ``--capture FILE`` and ``--size capture:FILE`` call: sizing inputs out of captures.
CAPTURE_SIZES = "tools.capture.sizes:measured_inputs"

#: In the order in which help lists them.
COMMANDS: Mapping[str, Entry] = {
    "demo": Entry("The main job, end to end, in real processes.", "tools.demo.cli:demo"),
    "doctor": Entry("What this machine can do, and the fix for what is missing.", "tools.doctor:doctor"),
    "get": Entry(
        "Tables: what there is now.",
        children=dict(
            (
                _get("arrays", "The station's storage arrays, up or down."),
                _get("ports", "Every port of every array."),
                _get("pools", "Area 100: the communication memory of every interface."),
                _get("channels", "Table 108: bandwidth, delay, sessions and connections of each port pair."),
                _get("reservations", "Table 101: who has reserved how much."),
                _get("allocations", "Table 109: the buffers in use."),
                _get("buffer-ids", "Table 1500: the buffer IDs of connections."),
                _get("pairs", "Registered port pairs, recommended beside reserved."),
                _get("copies", "Remote copies and how far they are."),
                _get("alarms", "What somebody should do something about."),
                _get("events", "What happened."),
                _get("history", "Bandwidth and delay of a channel over time."),
            )
        ),
        example="sancredit get pools -o wide",
    ),
    "register": Entry("Put a port pair into table 108.", "mgmt.cli.channel:register"),
    "unregister": Entry("Take a port pair out of table 108.", "mgmt.cli.channel:unregister"),
    "measure": Entry("Measure the channel of a registered port pair.", "mgmt.cli.channel:measure"),
    "recommend": Entry("How much to reserve, and why.", "mgmt.cli.recommend:recommend"),
    "reserve": Entry("Reserve buffers for a target.", "mgmt.cli.reserve:reserve"),
    "preview": Entry("What a reservation would change.", "mgmt.cli.reserve:preview"),
    "update": Entry("Bring a reservation to another size.", "mgmt.cli.reserve:update"),
    "release": Entry("Give a reservation up.", "mgmt.cli.reserve:release"),
    "undo": Entry("Undo the last change.", "mgmt.cli.policy:undo"),
    "policy": Entry(
        "Who decides a target's size, and how.",
        children={
            "show": Entry("The policies there are.", "mgmt.cli.policy:show_policies"),
            "set": Entry("Make a policy, or change some of it.", "mgmt.cli.policy:set_policy"),
            "remove": Entry("Take a policy away.", "mgmt.cli.policy:remove_policy"),
        },
        example="sancredit policy set --port-pair 127.0.0.1,127.0.0.2 --automatic --floor 1MiB",
    ),
    "alarm": Entry(
        "Alarms.",
        children={"ack": Entry("Say that an alarm has been seen.", "mgmt.cli.alarms:ack")},
        example="sancredit alarm ack 1 --note 'on it'",
    ),
    "audit": Entry(
        "Who changed what, when and why.",
        children={
            "show": Entry("The newest records.", "mgmt.cli.alarms:show_audit"),
            "verify": Entry("Whether the trail is as it was written.", "mgmt.cli.alarms:verify_audit"),
        },
        example="sancredit audit show -o wide",
    ),
    "copy": Entry(
        "Remote copy between two arrays.",
        children={
            "start": Entry("Start a copy: one request for each connection.", "mgmt.cli.copy:start"),
            "status": Entry("How far a copy is.", "mgmt.cli.copy:status"),
            "stop": Entry("Stop a copy; its units go back.", "mgmt.cli.copy:stop"),
            "pause": Entry("Pause the copying of a group.", "mgmt.cli.copy:pause"),
            "resume": Entry("Go on with a paused copy.", "mgmt.cli.copy:resume"),
            "verify": Entry("Compare both disks by SHA-256.", "mgmt.cli.copy:verify"),
        },
        example="sancredit copy status",
    ),
    "pair": Entry(
        "Pairs and consistency groups.",
        children={
            "create": Entry("Make a group, and begin the initial copy.", "mgmt.cli.pair:create"),
            "status": Entry("Every pair at each of its ends.", "mgmt.cli.pair:status"),
            "split": Entry("Suspend; changes are noted.", "mgmt.cli.pair:split"),
            "resync": Entry("Copy what has changed.", "mgmt.cli.pair:resync"),
            "takeover": Entry("Write at the remote array.", "mgmt.cli.pair:takeover"),
            "swap": Entry("Change the direction.", "mgmt.cli.pair:swap"),
            "delete": Entry("Dissolve a group.", "mgmt.cli.pair:delete"),
        },
        example="sancredit pair status",
    ),
    "target": Entry(
        "The embedded iSCSI target.",
        children={
            "serve": Entry("Serve LUNs over iSCSI.", "mgmt.cli.target:serve"),
            "faults": Entry(
                "The fault rules of a running target.",
                children={
                    "list": Entry(
                        "The rules, and how often each fired.", "mgmt.cli.target_control:list_faults"
                    ),
                    "add": Entry("Add rules from a TOML file, or one.", "mgmt.cli.target_control:add_faults"),
                    "remove": Entry("Remove rules.", "mgmt.cli.target_control:remove_faults"),
                    "clear": Entry("Remove every rule.", "mgmt.cli.target_control:clear_faults"),
                    "enable": Entry("Let rules work again.", "mgmt.cli.target_control:enable_faults"),
                    "disable": Entry("Let rules rest.", "mgmt.cli.target_control:disable_faults"),
                },
                example="sancredit target faults list --control /tmp/target.sock",
            ),
            "sessions": Entry(
                "The sessions of a running target.",
                children={
                    "list": Entry("The sessions there are.", "mgmt.cli.target_control:list_sessions"),
                    "end": Entry("End a session at once.", "mgmt.cli.target_control:end_session"),
                    "logout": Entry("Ask an initiator to log out.", "mgmt.cli.target_control:logout"),
                    "async": Entry("Send an asynchronous message.", "mgmt.cli.target_control:send_async"),
                },
                example="sancredit target sessions list --control /tmp/target.sock",
            ),
            "log": Entry("The last PDUs of a running target.", "mgmt.cli.target_control:log"),
            "capture": Entry(
                "Captures of a running target.",
                children={
                    "list": Entry("The captures under way.", "mgmt.cli.target_control:list_captures"),
                    "start": Entry("Begin a capture.", "mgmt.cli.target_control:start_capture"),
                    "stop": Entry("End a capture.", "mgmt.cli.target_control:stop_capture"),
                },
                example="sancredit target capture list --control /tmp/target.sock",
            ),
        },
        example="sancredit target serve --portal 127.0.0.1:0 --lun 64MiB",
    ),
    "lio": Entry(
        "The same target description on the Linux kernel's target.",
        children={
            "plan": Entry("The steps that apply would take.", "mgmt.cli.lio:plan"),
            "apply": Entry("Lead the kernel's target to a description.", "mgmt.cli.lio:apply"),
            "status": Entry("Targets, sessions, drift.", "mgmt.cli.lio:status"),
            "metrics": Entry("Counters of the kernel's target, for Prometheus.", "mgmt.cli.lio:metrics"),
            "clear": Entry("Remove what sancredit has made.", "mgmt.cli.lio:clear"),
            "import": Entry("Look through a saveconfig.json.", "mgmt.cli.lio:import_"),
            "export": Entry("Write a saveconfig.json.", "mgmt.cli.lio:export"),
        },
        example="sancredit lio plan target.toml",
    ),
    "lab": Entry(
        "The kernel's own stacks in a virtual machine.",
        children={
            "up": Entry("Boot the guest; build it where need be.", "tools.lab.cli:up"),
            "run": Entry("Run a command in the guest; copy files.", "tools.lab.cli:run"),
            "down": Entry("Switch the guest off.", "tools.lab.cli:down"),
        },
        example="sancredit lab up",
    ),
    "fc": Entry(
        "Fibre Channel: credits and fabrics.",
        children={
            "credits": Entry("How many credits a distance needs.", "mgmt.cli.fc:credits"),
            "simulate": Entry("Simulate a fabric of a scenario file.", "mgmt.cli.fc_fabric:simulate"),
            "sweep": Entry("Simulate a scenario with many values.", "mgmt.cli.fc_fabric:sweep"),
            "link": Entry(
                "A live link between two processes.",
                children={
                    "serve": Entry("One end: a target with LUNs.", "mgmt.cli.fc_link:serve"),
                    "load": Entry("The other end: write, read, compare.", "mgmt.cli.fc_link:load"),
                    "echo": Entry("The round trip of the link, by ECHO.", "mgmt.cli.fc_echo:echo"),
                },
                example="sancredit fc link serve /tmp/link --speed 8G --distance 100km --credits 197 --lun 64MiB",
            ),
            "fcoe": Entry(
                "Fibre Channel over Ethernet, to real peers.",
                children={
                    "serve": Entry("A target on an interface.", "mgmt.cli.fc_fcoe:serve"),
                    "load": Entry("An initiator: write, read, compare.", "mgmt.cli.fc_fcoe:load"),
                },
                example="sancredit fc fcoe serve eth1 --mode vn2vn --lun 64MiB",
            ),
        },
        example="sancredit fc credits --speed 8G --distance 50km",
    ),
    "capture": Entry(
        "Packet captures of iSCSI and Fibre Channel: what is in them, and why it is slow.",
        children={
            "summary": Entry("Protocols, PDUs, frames, damage.", "tools.capture.cli:summary"),
            "flows": Entry("I/O and latencies by initiator, target and LUN.", "tools.capture.cli:flows"),
            "pdus": Entry("iSCSI PDUs, one line each; or one in full.", "tools.capture.cli:pdus"),
            "frames": Entry(
                "Fibre Channel frames, one line each; or one in full.", "tools.capture.cli:frames"
            ),
            "credits": Entry("Credits and bytes in flight, and what is needed.", "tools.capture.cli:credits"),
            "anonymise": Entry("A capture without names and data.", "tools.capture.anonymise_cli:anonymise"),
            "export": Entry("The commands for fio, or as a trace.", "tools.capture.export_cli:export"),
            "whatif": Entry("The same commands over another channel.", "tools.capture.whatif.cli:whatif"),
            "replay": Entry("Play the commands to a live target.", "tools.capture.replay.cli:replay"),
            "simulate": Entry(
                "The same commands in a simulated fabric.", "tools.capture.fabric_replay.cli:simulate"
            ),
        },
        example="sancredit capture flows capture.pcapng",
    ),
    "array": Entry(
        "A storage array.",
        children={
            "serve": Entry("Run a storage array.", "mgmt.array.cli:serve"),
            "add": Entry("Have the station manage one more array.", "mgmt.cli.arrays:add"),
            "remove": Entry("Have the station manage an array no more.", "mgmt.cli.arrays:remove"),
        },
        example="sancredit array serve --name east --listen http://127.0.0.1:0 --port-address 127.0.0.1 "
        "--iscsi-port 0 --volume vol0=/tmp/east.img:64MiB",
    ),
    "probe": Entry(
        "A measuring device.",
        children={"serve": Entry("Run a measuring device.", "mgmt.channel.cli:serve")},
        example="sancredit probe serve --listen http://127.0.0.1:0 --address 127.0.0.1",
    ),
    "station": Entry(
        "The management station.",
        children={
            "serve": Entry("Run the management station.", "mgmt.cli.station:serve"),
            "backup": Entry("Save everything a station keeps.", "mgmt.cli.store:backup"),
            "restore": Entry("Bring a station's store to a backup.", "mgmt.cli.store:restore"),
            "token": Entry(
                "Who may use a station.",
                children={
                    "create": Entry("Make a token and print it.", "mgmt.cli.token:create"),
                    "list": Entry("The tokens there are.", "mgmt.cli.token:list_"),
                    "rotate": Entry("Replace a token by a new one.", "mgmt.cli.token:rotate"),
                    "revoke": Entry("Take a token away.", "mgmt.cli.token:revoke"),
                },
                example="sancredit station token create ci --role operator --expires 90d",
            ),
        },
        example="sancredit station serve --listen http://127.0.0.1:0 --state ./station",
    ),
    "man": Entry("The manual page.", "mgmt.cli.manual:manual"),
    "completion": Entry("The shell's completion script.", "mgmt.cli.completion:completion"),
}
