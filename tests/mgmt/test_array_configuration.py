"""Flags and TOML become one frozen description of an array, or one clear line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from credits.config import UnitKind
from mgmt.array.configuration import (
    ArrayConfig,
    ConfigurationError,
    FcInterface,
    Settings,
    TcpInterface,
    VolumeConfig,
    build,
    load,
    parse_volumes,
)
from mgmt.array.secrets import array_chap, read_secret

MINIMAL = Settings(listen="unix:/tmp/x.sock", port_address="127.0.0.1")


def test_what_is_not_given_has_a_default() -> None:
    config = build(MINIMAL)
    (interface,) = config.interfaces
    assert isinstance(interface, TcpInterface)
    assert (config.name, interface.iscsi_port, interface.pool.total_units, interface.pool.unit_bytes) == (
        "array",
        3260,
        256,
        16384,
    )
    assert config.volumes == ()
    assert config.state is None
    assert config.copy.allocation_units is None
    assert config.iqn == "iqn.2003-10.example.sancredit:array"


def test_flags_go_before_the_file() -> None:
    file = replace(MINIMAL, name="from-file", units=64, iscsi_port=0)
    config = build(Settings(name="from-flag", iscsi_port=5), file)
    (interface,) = config.interfaces
    assert isinstance(interface, TcpInterface)
    assert (config.name, interface.iscsi_port, interface.pool.total_units) == ("from-flag", 5, 64)


def test_a_flag_of_zero_is_a_value() -> None:
    (interface,) = build(Settings(iscsi_port=0), replace(MINIMAL, iscsi_port=7)).interfaces
    assert isinstance(interface, TcpInterface) and interface.iscsi_port == 0


def test_a_file_says_everything_that_flags_say(tmp_path: Path) -> None:
    path = tmp_path / "array.toml"
    path.write_text(
        """
        name = "east"
        listen = "http://127.0.0.1:0"
        port_address = "10.0.0.1"
        iscsi_port = 0
        iqn = "iqn.2026-11.example:east"
        unit = "2048B"
        units = 100
        pages = 10
        page = "4KiB"
        min_free = 5
        state = "/var/lib/east"
        allocation_units = 7
        extent = "128KiB"
        [volumes]
        vol0 = "/images/a.img"
        vol1 = "/images/b.img:64MiB"
        """
    )
    config = build(Settings(), load(path))
    (interface,) = config.interfaces
    assert interface.pool.unit_bytes == 2048
    assert interface.pool.ceiling_units == 120
    assert interface.pool.min_free_units == 5
    assert config.state == Path("/var/lib/east")
    assert config.copy.allocation_units == 7
    assert config.copy.extent_bytes == 131072
    assert config.volumes == (
        VolumeConfig("vol0", Path("/images/a.img")),
        VolumeConfig("vol1", Path("/images/b.img"), 64 << 20),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vol0=/a.img", VolumeConfig("vol0", Path("/a.img"))),
        ("vol0=/a.img:1MiB", VolumeConfig("vol0", Path("/a.img"), 1 << 20)),
        ("vol0=/with:colon", VolumeConfig("vol0", Path("/with:colon"))),
        ("vol0=/with:colon:512", VolumeConfig("vol0", Path("/with:colon"), 512)),
        ("vol0=/with=sign", VolumeConfig("vol0", Path("/with=sign"))),
    ],
)
def test_a_volume_is_read(text: str, expected: VolumeConfig) -> None:
    assert build(replace(MINIMAL, volumes=parse_volumes([text]))).volumes == (expected,)


@pytest.mark.parametrize("text", ["", "vol0", "vol0=", "=/a.img"])
def test_what_is_no_volume_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a volume"):
        parse_volumes([text])


def test_a_volume_named_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="two volumes"):
        parse_volumes(["a=/x", "a=/y"])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"port_address": None}, "--port-address"),
        ({"listen": None}, "--listen"),
        ({"port_address": "somewhere"}, "somewhere"),
        ({"listen": "/tmp/x.sock"}, "is not an address"),
        ({"iscsi_port": 65536}, "65536"),
        ({"iscsi_port": -1}, "-1"),
        ({"unit": "3 bananas"}, "bananas"),
        ({"unit": "0"}, "unit_bytes"),
        ({"units": 0}, "total_units"),
        ({"min_free": 300}, "min_free_units"),
        ({"pages": 1, "page": "1KiB"}, "page_bytes"),
        ({"allocation_units": 0}, "--allocation-units"),
        ({"extent": "1000"}, "multiple of 512"),
        ({"extent": "1GiB"}, "multiple of 512"),
        ({"name": "two words"}, "cannot name an array"),
        ({"name": "x" * 65}, "cannot name an array"),
        ({"volumes": {"vol0": ""}}, "needs a path"),
        ({"volumes": {"vol0": ":5"}}, "needs a path"),
        ({"volumes": {"vol0": "/a:5 bananas"}}, "bananas"),
        ({"volumes": {"a\nb": "/a"}}, "cannot name a volume"),
        ({"state": ""}, "--state is a path"),
        ({"chap_file": ""}, "--chap-file is a path"),
        ({"station_token_file": "\0"}, "--station-token-file is a path"),
    ],
)
def test_a_bad_value_gets_one_line_that_names_it(changes: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        build(replace(MINIMAL, **changes))  # type: ignore[arg-type]
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"units = ", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        (b"unites = 5", "there is no setting 'unites'"),
        (b"units = '5'", "units is a whole number"),
        (b"units = true", "units is a whole number"),
        (b"name = 5", "name is a text"),
        (b"volumes = ['/a']", "volumes is a table"),
        (b"[volumes]\nvol0 = 5", "volumes is a table"),
        (b"#" * (1 << 20) + b"#", "is longer than"),
    ],
)
def test_a_bad_file_gets_one_line_that_names_it(tmp_path: Path, content: bytes, line: str) -> None:
    path = tmp_path / "array.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as refusal:
        load(path)
    assert line in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path / "missing.toml")


# --- the tables of the file --------------------------------------------------------------------------------

WWPN = "50:06:01:60:3b:a0:11:22"
HEAD = 'listen = "unix:/tmp/x.sock"\n'
ONE = HEAD + '[[interface]]\naddress = "10.0.0.1"\n'


def from_text(tmp_path: Path, text: str) -> ArrayConfig:
    path = tmp_path / "array.toml"
    path.write_text(text)
    return build(Settings(), load(path))


def test_interfaces_of_both_kinds_volumes_and_a_cache_come_from_tables(tmp_path: Path) -> None:
    config = from_text(
        tmp_path,
        """
        listen = "unix:/tmp/x.sock"
        state = "/var/lib/east"
        station = "http://127.0.0.1:7400"
        congestion = "bbr"
        chap_file = "/etc/sancredit/arrays.chap"
        [[interface]]
        address = "10.0.0.1"
        unit = "4KiB"
        pages = 2
        [[interface]]
        kind = "fc"
        name = "fc0"
        address = "50060160 3BA01122"
        """.replace("50060160 3BA01122", "500601603BA01122")
        + """
        link = "unix:/run/link"
        speed = "16GFC"
        distance = "100 km"
        credits = 500
        blocks = 3
        block = 10
        unreserved = 16
        [[volume]]
        name = "db"
        store = "/dev/sdb"
        hosts = false
        cached = false
        [[volume]]
        name = "scratch"
        store = "64MiB"
        [cache]
        size = "128MiB"
        high_percent = 90
        low_percent = 50
        warning = "8MiB"
        [usage]
        upper_percent = 70
        period = "50ms"
        """,
    )
    tcp, fibre = config.interfaces
    assert isinstance(tcp, TcpInterface) and isinstance(fibre, FcInterface)
    assert (tcp.name, tcp.address, tcp.iscsi_port, tcp.pool.page_bytes) == ("tcp0", "10.0.0.1", 3260, 65536)
    assert (fibre.address, fibre.speed, fibre.distance_m, fibre.unreserved) == (WWPN, "16G", 100_000, 16)
    assert (fibre.pool.kind, fibre.pool.unit_bytes, fibre.pool.ceiling_units) == (UnitKind.FC, 2148, 530)
    assert tcp.pool.first_buffer_id != fibre.pool.first_buffer_id
    assert config.volumes == (
        VolumeConfig("db", Path("/dev/sdb"), hosts=False, cached=False),
        VolumeConfig("scratch", None, 64 << 20),
    )
    assert config.cache is not None
    assert (config.cache.size_bytes, config.cache.file) == (128 << 20, Path("/var/lib/east/cache"))
    assert (config.cache.high_percent, config.cache.low_percent, config.cache.warning_bytes) == (
        90,
        50,
        8 << 20,
    )
    assert config.copy.usage is not None and config.copy.usage.upper_percent == 70
    assert (config.copy.congestion, config.station, config.chap) == ("bbr", "http://127.0.0.1:7400", True)


def test_the_cache_flag_goes_before_the_table(tmp_path: Path) -> None:
    path = tmp_path / "array.toml"
    path.write_text(ONE + '[cache]\nsize = "128MiB"\nfile = "/dev/shm/east"\n')
    config = build(Settings(cache_size="64MiB"), load(path))
    assert config.cache is not None
    assert (config.cache.size_bytes, config.cache.file) == (64 << 20, Path("/dev/shm/east"))


def test_a_volume_that_is_a_size_is_memory_and_with_a_slash_a_file() -> None:
    config = build(replace(MINIMAL, volumes=parse_volumes(["a=64MiB", "b=./64MiB"])))
    assert config.volumes == (VolumeConfig("a", None, 64 << 20), VolumeConfig("b", Path("64MiB")))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (HEAD + "interface = 5", "a list of tables: [[interface]]"),
        (HEAD + "interface = []", "1 to 64 interfaces"),
        (HEAD + "[[interface]]\n" * 65, "1 to 64 interfaces"),
        (HEAD + "[[interface]]", "address: the IP address of its port is missing"),
        (HEAD + '[[interface]]\naddress = "here"', "interface 1: address"),
        (ONE + 'kind = "infiniband"', "tcp or fc, not 'infiniband'"),
        (ONE + "units = 0", "total_units"),
        (ONE + "iscsi_port = 70000", "iscsi_port"),
        (ONE + "credits = 5", "no setting 'credits'"),
        (ONE + '[[interface]]\naddress = "10.0.0.1"', "two interfaces with the address"),
        (ONE + 'name = "x"\n[[interface]]\naddress = "10.0.0.2"\nname = "x"', "two interfaces with the name"),
        ("units = 5\n" + ONE, "units describes an array's only interface"),
        (ONE + f'[[interface]]\nkind = "fc"\naddress = "{WWPN[:-1]}"', "no WWPN"),
        (ONE + f'[[interface]]\nkind = "fc"\naddress = "{WWPN}"\nspeed = "9G"', "not a Fibre Channel speed"),
        (ONE + f'[[interface]]\nkind = "fc"\naddress = "{WWPN}"\ndistance = "1 parsec"', "parsec"),
        (ONE + f'[[interface]]\nkind = "fc"\naddress = "{WWPN}"\nunreserved = 0', "unreserved"),
        (ONE + f'[[interface]]\nkind = "fc"\naddress = "{WWPN}"\nblocks = 1\nblock = 0', "block_units"),
        (ONE + '[[volume]]\nname = "a"', "a volume has a name and a store"),
        (ONE + '[[volume]]\nname = "a"\nstore = "1MiB"\nhost = true', "no setting 'host'"),
        (
            ONE + '[volumes]\na = "1MiB"\n[[volume]]\nname = "a"\nstore = "1MiB"',
            "two volumes with the name 'a'",
        ),
        (ONE + "[cache]", "a cache has a size"),
        (ONE + '[cache]\nsize = "1KiB"', "a cache has a size"),
        (ONE + '[cache]\nsize = "1MiB"\nlow_percent = 70', "low_percent 70 is below high_percent"),
        (ONE + '[cache]\nsize = "1MiB"\nwarning = "1MiB"', "would never end"),
        (ONE + "[usage]\nupper_percent = 20", "usage"),
        ('congestion = "../cubic"\n' + ONE, "cannot name a TCP congestion control"),
        ('station = "nowhere"\n' + ONE, "nowhere"),
        ("chap = 1\n" + ONE, "chap is true or false"),
    ],
)
def test_a_table_that_describes_nothing_gets_one_line(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        from_text(tmp_path, text)
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


# --- the arrays' secret ------------------------------------------------------------------------------------


def test_a_missing_secret_is_made_for_its_owner_alone_and_found_again(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "chap"
    secret = read_secret(file, None)
    assert len(secret) >= 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_secret(file, None) == secret
    assert list(file.parent.iterdir()) == [file]


def test_without_a_file_the_secret_is_the_states_and_without_a_state_this_runs(tmp_path: Path) -> None:
    assert read_secret(None, tmp_path) == read_secret(tmp_path / "chap", None)
    assert read_secret(None, None) != read_secret(None, None)


@pytest.mark.parametrize(
    ("content", "mode", "line"),
    [
        (b"x" * 32, 0o644, "chmod 600"),
        (b"short", 0o600, "has 5 bytes"),
        (b"x" * 2000, 0o600, "bytes, not 12"),
    ],
)
def test_a_secret_that_is_none_is_one_line(tmp_path: Path, content: bytes, mode: int, line: str) -> None:
    file = tmp_path / "chap"
    file.write_bytes(content)
    file.chmod(mode)
    with pytest.raises(ConfigurationError, match=line):
        read_secret(file, None)


def test_the_two_directions_never_share_a_secret() -> None:
    chap = array_chap(b"0123456789abcdef")
    assert chap.initiator.own is not None and chap.target.own is not None
    assert chap.initiator.own in chap.target.accepted and chap.target.own in chap.initiator.accepted
    assert chap.initiator.own.secret != chap.target.own.secret
    assert "0123" not in repr(chap)
