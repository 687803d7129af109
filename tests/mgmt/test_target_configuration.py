"""The TOML file of `sancredit target serve`: what it describes, and one line for what is wrong in it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from iscsi_target.faults import FaultError
from iscsi_target.scsi.logical_unit import DeviceType
from iscsi_target.server import Portal
from iscsi_target.session.access import AccessList, AccessRule
from mgmt.target.configuration import LunConfig, ServeConfig, load
from mgmt.target.process import TargetProcess
from mgmt.target.table import ConfigurationError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def read(tmp_path: Path, text: str) -> ServeConfig:
    path = tmp_path / "target.toml"
    path.write_text(textwrap.dedent(text))
    return load(path, lambda file: file.read_bytes())


def test_an_empty_file_is_the_target_without_flags(tmp_path: Path) -> None:
    assert read(tmp_path, "") == ServeConfig()
    assert not ServeConfig().instrumented


def test_every_setting_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"wonderland123")
    (tmp_path / "faults.toml").write_text('seed = 3\n[[rule]]\nname = "f"\naction = "drop"\n')
    config = read(
        tmp_path,
        """
        portals = ["127.0.0.1:0", "[::1]:3261"]
        buffers = "64MiB"
        metrics = "127.0.0.1:0"
        control = "target.sock"
        control_token = "token"
        faults = "faults.toml"
        log_pdus = 500
        [capture]
        path = "c.pcapng"
        snap = "96"
        rotate = "10MiB"
        files = 3
        [limits]
        sessions = 5
        login_timeout = "2s"
        send_queue = "2MiB"
        [[portal]]
        address = "127.0.0.1:3262"
        group = 2
        [[rule]]
        name = "inline"
        action = "busy"
        [[target]]
        iqn = "iqn.2003-10.example:a"
        alias = "a"
        initiators = ["iqn.2003-10.example:h"]
        moved_to = "10.0.0.1:3260"
        reservations = "pr"
        [target.parameters]
        max_burst_length = "512KiB"
        header_digest = ["CRC32C"]
        initial_r2t = true
        [[target.chap]]
        user = "alice"
        secret_file = "secret"
        [target.mutual_chap]
        user = "target"
        secret_file = "secret"
        [[target.lun]]
        store = "disk.img"
        block_length = 4096
        read_only = true
        product = "A DISK"
        [[target.lun]]
        number = 9
        store = "snapshot:disk.img"
        type = "cdrom"
        [[target.access]]
        initiators = ["iqn.2003-10.example:h"]
        luns = { 0 = 9, 3 = 0 }
        read_only = [3]
        [[target]]
        iqn = "iqn.2003-10.example:b"
        """,
    )
    assert config.portals == (Portal("127.0.0.1", 0), Portal("::1", 3261), Portal("127.0.0.1", 3262, 2))
    assert (config.buffer_bytes, config.metrics, config.seed) == (64 << 20, Portal("127.0.0.1", 0), 3)
    assert (config.control, config.control_token) == (f"unix:{tmp_path}/target.sock", tmp_path / "token")
    assert [rule.name for rule in config.rules] == ["f", "inline"]
    assert config.capture is not None
    assert (config.capture.path, config.capture.snap_bytes) == (tmp_path / "c.pcapng", 96)
    assert (config.capture.rotate_bytes, config.capture.files) == (10 << 20, 3)
    assert (config.limits.sessions, config.limits.login_timeout_ns) == (5, 2_000_000_000)
    assert config.limits.send_queue_bytes == 2 << 20
    assert config.instrumented
    first, second = config.targets
    assert (first.iqn, first.alias, second.iqn) == ("iqn.2003-10.example:a", "a", "iqn.2003-10.example:b")
    assert first.allowed_initiators == {"iqn.2003-10.example:h"}
    assert (first.moved_to, first.reservations) == ("10.0.0.1:3260", tmp_path / "pr")
    assert first.parameters.max_burst_length == 512 << 10
    assert (first.parameters.header_digest, first.parameters.initial_r2t) == (("CRC32C",), True)
    assert first.chap is not None
    assert first.chap.accepted[0].secret == b"wonderland123"
    assert first.chap.own is not None
    disk, cdrom = first.luns
    assert (disk.number, disk.store, cdrom.number) == (0, str(tmp_path / "disk.img"), 9)
    assert disk.config is not None
    assert (disk.config.block_length, disk.config.read_only, disk.config.product) == (4096, True, "A DISK")
    assert cdrom.store == f"snapshot:{tmp_path}/disk.img"
    assert cdrom.config is not None
    assert cdrom.config.device_type is DeviceType.CDROM
    assert first.access == AccessList(
        (
            AccessRule(
                initiators=frozenset({"iqn.2003-10.example:h"}),
                luns={0: 9, 3: 0},
                read_only_luns=frozenset({3}),
            ),
        )
    )
    assert second.luns == (LunConfig(0, "64MiB"),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("portal = 3", "portal: tables are expected: [[portal]]"),
        ("portals = ['nowhere']", "portals is HOST:PORT with a port from 0 to 65535, not 'nowhere'"),
        ("bufers = '1MiB'", "there is no setting 'bufers'; there are "),
        ("buffers = 'much'", "buffers: "),
        ("[limits]\nsesions = 3", "limits: there is no setting 'sesions'"),
        ("[limits]\nlogin_timeout = 3", "limits: login_timeout: a time is a number with"),
        ("[limits]\nsessions = 0", "limits: sessions: a whole number from 1 to"),
        ("[[target]]\niqn = 'disk'", "target 1: iqn: 'disk' is no iSCSI name"),
        ("[[target]]\n[[target]]", "two targets have the same iqn"),
        ("[[target]]\n[[target.lun]]", "target 1: lun 1: store: a LUN has one"),
        ("[[target]]\n[[target.lun]]\nstore='1MiB'\nblock_length=500", "block length 500 is not 512"),
        ("[[target]]\n[[target.lun]]\nstore='1MiB'\nread_only='yes'", "read_only: true or false is expected"),
        (
            "[[target]]\n[[target.lun]]\nstore='1MiB'\ntype='tape'",
            "type: disk or cdrom is expected, not 'tape'",
        ),
        (
            "[[target]]\n[[target.lun]]\nstore='1MiB'\n[[target.lun]]\nnumber=0\nstore='1MiB'",
            "two LUNs have the same number",
        ),
        ("[[target]]\n[[target.chap]]\nuser='a'", "CHAP takes a user and a secret_file"),
        ("[[target]]\n[target.mutual_chap]\nuser='a'", "it goes with [[target.chap]] users"),
        ("[[target]]\n[[target.access]]\nchap=['i']\nluns=3", "luns: a list of LUNs, or a table"),
        ("[[target]]\n[target.parameters]\nmax_burst_length=1", "512 <= FirstBurstLength"),
        ("[capture]\nsnap='1KiB'", "capture: path: a capture has one"),
        ("[capture]\npath='x'\nsnap=10", "less than 60 bytes"),
        ("[[rule]]\nname='r'\naction='explode'", "rule 1 'r': action: there is no 'explode'"),
        ("faults = 'nothing.toml'", "nothing.toml: no such file or directory"),
        ("hooks = ['h.py']", "there is no setting 'hooks'"),
        ("= 1", "is not TOML"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file_and_the_place(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(ConfigurationError) as wrong:
        read(tmp_path, text)
    told = str(wrong.value)
    assert says in told
    assert str(tmp_path) in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[target]]\n[[target.lun]]\nstore='nothing.img'", "does not exist"),
        ("[[target]]\n[[target.lun]]\nstore='1000'", "take 512 or 1024 bytes"),
        ("[[target]]\n[[target.access]]\nchap=['i']\nluns=[5]", "maps to 5, which is not there"),
        ("buffers = 1023", "--buffers is 1MiB to 16GiB"),
    ],
)
def test_what_cannot_be_opened_is_said_when_it_is_built(tmp_path: Path, text: str, says: str) -> None:
    config = read(tmp_path, text)
    with pytest.raises(ConfigurationError, match=says):
        TargetProcess(config)


def test_a_target_that_nothing_watches_has_no_instruments(tmp_path: Path) -> None:
    process = TargetProcess(read(tmp_path, "[[target]]\n[[target.lun]]\nstore='1MiB'"))
    assert process.instruments is None
    assert process.targets[0].logical_units is process.devices[0]
    process.close()


def test_the_examples_describe_a_target_and_its_faults() -> None:
    config = load(EXAMPLES / "target.toml", lambda file: file.read_bytes())
    assert [target.iqn for target in config.targets] == [
        "iqn.2003-10.example:disks",
        "iqn.2003-10.example:open",
    ]
    assert [rule.name for rule in config.rules] == [
        "bad-blocks",
        "queue-full",
        "slow-reads",
        "hiccup",
        "reset",
    ]
    process = TargetProcess(config)
    assert sorted(process.devices[0].units) == [0, 1, 7]
    process.close()


def test_a_hook_that_cannot_be_loaded_leaves_nothing_open(tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(ConfigurationError, match="is no Python file") as refused:
        TargetProcess(replace(ServeConfig(), hooks=(tmp_path / "none.py",)))
    assert isinstance(refused.value.__cause__, FaultError)
