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
    "copy": Entry(
        "Remote copy between two arrays.",
        children={
            "start": Entry("Start a copy: one request for each connection.", "mgmt.cli.copy:start"),
            "status": Entry("How far a copy is.", "mgmt.cli.copy:status"),
            "stop": Entry("Stop a copy; its units go back.", "mgmt.cli.copy:stop"),
            "verify": Entry("Compare both disks by SHA-256.", "mgmt.cli.copy:verify"),
        },
        example="sancredit copy status",
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
    "fc": Entry(
        "Fibre Channel: credits and fabrics.",
        children={
            "credits": Entry("How many credits a distance needs.", "mgmt.cli.fc:credits"),
            "simulate": Entry("Simulate a fabric of a scenario file.", "mgmt.cli.fc_fabric:simulate"),
            "sweep": Entry("Simulate a scenario with many values.", "mgmt.cli.fc_fabric:sweep"),
        },
        example="sancredit fc credits --speed 8G --distance 50km",
    ),
    "array": Entry(
        "A storage array.",
        children={"serve": Entry("Run a storage array.", "mgmt.array.cli:serve")},
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
        children={"serve": Entry("Run the management station.", "mgmt.cli.station:serve")},
        example="sancredit station serve --listen http://127.0.0.1:0 --state ./station",
    ),
    "completion": Entry("The shell's completion script.", "mgmt.cli.completion:completion"),
}
