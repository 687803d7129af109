"""Flags and TOML become one frozen description of an array, or one clear line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mgmt.array.configuration import (
    ConfigurationError,
    Settings,
    TcpInterface,
    VolumeConfig,
    build,
    load,
    parse_volumes,
)

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
