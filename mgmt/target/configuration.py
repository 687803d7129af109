"""What a target is asked to be: a TOML file, and flags that go before it, read at the edge into frozen values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from iscsi_target.faults import FaultError, Rule
from iscsi_target.faults.tables import load_rules, rules_from_document
from iscsi_target.scsi.errors import InvalidConfiguration
from iscsi_target.scsi.logical_unit import DeviceType, LogicalUnitConfig, cdrom_config
from iscsi_target.session.access import AccessList, AccessRule
from iscsi_target.session.chap import Chap, Credentials
from iscsi_target.session.limits import Limits
from iscsi_target.session.node import Portal
from iscsi_target.session.parameters import Parameters
from iscsi_target.trace.capture import CaptureConfig, CaptureError
from iscsi_target.wire.names import name_problem
from mgmt.target.table import ConfigurationError, Table, load_document

DEFAULT_IQN = "iqn.2003-10.example.sancredit:target"
DEFAULT_PORTAL = Portal("127.0.0.1", 3260)
DEFAULT_LUN = "64MiB"
DEFAULT_BUFFER_BYTES = 256 << 20
_MAX_LUN = 0x3FFF
_MAX_LOG = 1_000_000

#: Reads a secret from its file; raises what says that it cannot be.
SecretReader = Callable[[Path], bytes]


@dataclass(frozen=True, slots=True)
class LunConfig:
    """A logical unit: its number, what stores its blocks, how it presents itself. `config` None: as the store is."""

    number: int
    store: str
    config: LogicalUnitConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetConfig:
    """One iSCSI target."""

    iqn: str = DEFAULT_IQN
    alias: str = ""
    luns: tuple[LunConfig, ...] = (LunConfig(0, DEFAULT_LUN),)
    chap: Chap | None = None
    allowed_initiators: frozenset[str] | None = None
    access: AccessList | None = None
    """Who may log in, and what it sees; None: everybody, everything."""
    moved_to: str = ""
    parameters: Parameters = field(default_factory=lambda: Parameters(error_recovery_level=2))
    reservations: Path | None = None
    """Directory in which persistent reservations outlive the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """A target process. `metrics` and `control` None: not served."""

    targets: tuple[TargetConfig, ...] = (TargetConfig(),)
    portals: tuple[Portal, ...] = (DEFAULT_PORTAL,)
    limits: Limits = field(default_factory=Limits)
    buffer_bytes: int = DEFAULT_BUFFER_BYTES
    metrics: Portal | None = None
    control: str | None = None
    control_token: Path | None = None
    rules: tuple[Rule, ...] = ()
    hooks: tuple[Path, ...] = ()
    seed: int = 0
    capture: CaptureConfig | None = None
    log_pdus: int | None = None
    """PDUs that the log keeps; None: as many as are useful where anybody can ask for it, and else none."""

    @property
    def instrumented(self) -> bool:
        """Whether anything watches or disturbs the target, or may later."""
        return bool(self.rules or self.hooks or self.capture or self.control or self.log_pdus)


def load(path: Path, read_secret: SecretReader) -> ServeConfig:
    """The configuration in a TOML file; paths in it are relative to the file's directory. Raises ConfigurationError."""
    table = load_document(path)
    here = path.parent
    portals = _portals(table)
    metrics = table.text("metrics")
    rules, file_seed = _rules(table, here)
    seed = table.integer("seed", low=-(1 << 62))
    table.raw("lio")  # what only the kernel's target knows: mgmt.target.kernel
    config = ServeConfig(
        targets=_targets(table, here, read_secret),
        portals=portals or (DEFAULT_PORTAL,),
        limits=_limits(table.table("limits")),
        buffer_bytes=table.size("buffers") or DEFAULT_BUFFER_BYTES,
        metrics=None if metrics is None else parse_portal(metrics, f"{path}: metrics"),
        control=_address(table.text("control"), here),
        control_token=_path(table.text("control_token"), here),
        rules=rules,
        seed=seed if seed is not None else file_seed or 0,
        capture=_capture(table, here),
        log_pdus=table.integer("log_pdus", high=_MAX_LOG),
    )
    table.done()
    return config


def parse_portal(text: str, what: str, *, group: int = 1) -> Portal:
    """HOST:PORT, an IPv6 address in brackets. Raises ConfigurationError; `what` names the setting."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"{what} is HOST:PORT with a port from 0 to 65535, not {text!r:.120}")
    return Portal(host, int(port), group)


def _path(text: str | None, here: Path) -> Path | None:
    return None if text is None else here / text


def _address(text: str | None, here: Path) -> str | None:
    """A control address: a Unix socket's path (with or without ``unix:``) or http://HOST:PORT."""
    if text is None or text.startswith("http://"):
        return text
    return f"unix:{here / text.removeprefix('unix:')}"


def _portals(table: Table) -> tuple[Portal, ...]:
    plain = table.texts("portals")
    found = [parse_portal(text, f"{table.where}: portals") for text in plain or ()]
    for one in table.tables("portal"):
        address, group = one.text("address"), one.integer("group", 1, low=1, high=0xFFFF)
        one.done()
        if address is None:
            raise one.error("address", "a portal has one: HOST:PORT")
        found.append(parse_portal(address, f"{one.where}: address", group=group or 1))
    return tuple(found)


def _limits(table: Table) -> Limits:
    given: dict[str, int] = {}
    for entry in fields(Limits):
        value: int | None
        if entry.name.endswith("_ns"):
            value = table.time_ns(entry.name.removesuffix("_ns"))
        elif entry.name.endswith("_bytes"):
            value = table.size(entry.name.removesuffix("_bytes"))
        else:
            value = table.integer(entry.name, low=1)
        if value is not None:
            given[entry.name] = value
    table.done()
    return Limits(**given)


def _rules(table: Table, here: Path) -> tuple[tuple[Rule, ...], int | None]:
    rules: tuple[Rule, ...] = ()
    seed = None
    named = table.text("faults")
    try:
        if named is not None:
            file = load_rules(here / named)
            rules, seed = file.rules, file.seed
        inline = table.raw("rule")
        if inline is not None:
            rules += rules_from_document({"rule": inline}, where=table.where).rules
    except FaultError as error:
        raise ConfigurationError(str(error)) from None
    return rules, seed


def _capture(table: Table, here: Path) -> CaptureConfig | None:
    if not table.has("capture"):
        table.raw("capture")
        return None
    if isinstance(table.raw("capture"), str):
        return CaptureConfig(path=here / (table.text("capture") or ""))
    one = table.table("capture")
    path = one.text("path")
    if path is None:
        raise one.error("path", "a capture has one")
    try:
        config = CaptureConfig(
            path=here / path,
            snap_bytes=one.size("snap") or 0,
            rotate_bytes=one.size("rotate") or 0,
            files=one.integer("files", 0) or 0,
            initiator=one.text("initiator") or "",
        )
    except CaptureError as error:
        raise ConfigurationError(f"{one.where}: {error}") from None
    one.done()
    return config


def _targets(table: Table, here: Path, read_secret: SecretReader) -> tuple[TargetConfig, ...]:
    found = tuple(_target(one, here, read_secret) for one in table.tables("target"))
    names = [target.iqn for target in found]
    if len(set(names)) != len(names):
        raise ConfigurationError(f"{table.where}: two targets have the same iqn")
    return found or (TargetConfig(),)


def _target(table: Table, here: Path, read_secret: SecretReader) -> TargetConfig:
    iqn = table.text("iqn") or DEFAULT_IQN
    problem = name_problem(iqn)
    if problem is not None:
        raise table.error("iqn", f"{iqn!r:.230} is no iSCSI name: {problem}")
    allowed = table.texts("initiators")
    table.raw("lio")
    luns = tuple(_lun(one, number, here) for number, one in enumerate(table.tables("lun")))
    numbers = [lun.number for lun in luns]
    if len(set(numbers)) != len(numbers):
        raise table.error("lun", "two LUNs have the same number")
    config = TargetConfig(
        iqn=iqn,
        alias=table.text("alias") or "",
        luns=luns or (LunConfig(0, DEFAULT_LUN),),
        chap=_chap(table, here, read_secret),
        allowed_initiators=None if allowed is None else frozenset(allowed),
        access=_access_list(table),
        moved_to=table.text("moved_to") or "",
        parameters=_parameters(table.table("parameters")),
        reservations=_path(table.text("reservations"), here),
    )
    table.done()
    return config


def _lun(table: Table, number: int, here: Path) -> LunConfig:
    store = table.text("store")
    if store is None:
        raise table.error("store", 'a LUN has one: "64MiB", "null:1GiB", "snapshot:PATH" or a path')
    number = table.integer("number", number, high=_MAX_LUN) or 0
    table.raw("lio")
    kind = table.text("type") or "disk"
    if kind not in ("disk", "cdrom"):
        raise table.error("type", f"disk or cdrom is expected, not {kind!r:.40}")
    base = cdrom_config() if kind == "cdrom" else LogicalUnitConfig()
    given: dict[str, Any] = {}
    for entry in fields(LogicalUnitConfig):
        if entry.name == "device_type":
            continue
        value: Any
        if isinstance(entry.default, bool):
            value = table.truth(entry.name) if table.has(entry.name) else table.raw(entry.name)
        elif isinstance(entry.default, str):
            value = table.text(entry.name)
        elif entry.name == "sanitize_bytes_per_s":
            value = table.size(entry.name)
        else:
            value = table.integer(entry.name)
        if value is not None:
            given[entry.name] = value
    table.done()
    try:
        config = replace(base, **given) if given or base.device_type is DeviceType.CDROM else None
    except InvalidConfiguration as error:
        raise ConfigurationError(f"{table.where}: {error}") from None
    return LunConfig(number, _store(store, here), config)


def _store(text: str, here: Path) -> str:
    """A store's description with its path relative to the file's directory."""
    from iscsi_target.scsi.stores.description import parse_size

    kind, colon, rest = text.partition(":")
    if colon and kind == "snapshot":
        origin, overlay, file = rest.rpartition(",overlay=")
        if origin and file:
            return f"snapshot:{_store(origin, here)}{overlay}{here / file}"
        return f"snapshot:{_store(rest, here)}"
    if colon and kind == "direct":
        return f"direct:{_store(rest, here)}"
    if colon and kind == "null":
        return text
    try:
        return text if parse_size(text) is not None else str(here / text)
    except InvalidConfiguration as error:
        raise ConfigurationError(str(error)) from None


def _chap(table: Table, here: Path, read_secret: SecretReader) -> Chap | None:
    accepted = [_credentials(one, here, read_secret) for one in table.tables("chap")]
    own = table.table("mutual_chap") if table.has("mutual_chap") else None
    table.raw("mutual_chap")
    if own is None:
        return Chap(accepted=tuple(accepted)) if accepted else None
    if not accepted:
        raise table.error("mutual_chap", "it goes with [[target.chap]] users")
    return Chap(accepted=tuple(accepted), own=_credentials(own, here, read_secret))


def _credentials(table: Table, here: Path, read_secret: SecretReader) -> Credentials:
    user, file = table.text("user"), table.text("secret_file")
    table.done()
    if not user or not file:
        raise ConfigurationError(f"{table.where}: CHAP takes a user and a secret_file")
    return Credentials(user, read_secret(here / file))


def _access_list(table: Table) -> AccessList | None:
    hidden = table.truth("hide") if table.has("hide") else table.raw("hide")
    rules = tuple(_access(one) for one in table.tables("access"))
    if hidden and not rules:
        raise table.error("hide", "it hides the target from whom no [[target.access]] admits: there is none")
    return AccessList(rules, bool(hidden)) if rules else None


def _access(table: Table) -> AccessRule:
    """Who: ``initiators``, ``addresses`` (CIDR), ``chap`` (users), lists; what: ``luns``, ``read_only``."""
    who = {key: table.texts(key) or () for key in ("initiators", "addresses", "chap")}
    if not any(who.values()):
        raise table.error("initiators", "a rule says who: initiators, addresses or chap users")
    luns = table.raw("luns")
    seen: dict[int, int] | None = None
    if isinstance(luns, list) and all(type(item) is int for item in luns):
        seen = {lun: lun for lun in luns}
    elif isinstance(luns, Mapping) and all(key.isdigit() and type(own) is int for key, own in luns.items()):
        seen = {int(key): own for key, own in luns.items()}
    elif luns is not None:
        raise table.error(
            "luns", "a list of LUNs, or a table of the initiator's LUN = the target's, is expected"
        )
    reading = table.raw("read_only") or False
    if not isinstance(reading, bool | list) or (
        isinstance(reading, list) and not all(type(lun) is int for lun in reading)
    ):
        raise table.error("read_only", "true, or a list of LUNs as the initiator counts, is expected")
    table.done()
    try:
        return AccessRule(
            initiators=frozenset(who["initiators"]),
            networks=tuple(ip_network(text, strict=False) for text in who["addresses"]),
            chap_names=frozenset(who["chap"]),
            luns=seen,
            read_only=reading is True,
            read_only_luns=frozenset() if isinstance(reading, bool) else frozenset(reading),
        )
    except ValueError as error:
        raise ConfigurationError(f"{table.where}: {error}") from None


def _parameters(table: Table) -> Parameters:
    given: dict[str, Any] = {}
    defaults = Parameters(error_recovery_level=2)
    for entry in fields(Parameters):
        default = getattr(defaults, entry.name)
        value: Any
        if isinstance(default, bool):
            value = table.truth(entry.name) if table.has(entry.name) else table.raw(entry.name)
        elif isinstance(default, tuple):
            value = table.texts(entry.name)
        elif entry.name.endswith("_length"):
            value = table.size(entry.name)
        else:
            value = table.integer(entry.name)
        if value is not None:
            given[entry.name] = value
    table.done()
    try:
        return replace(defaults, **given)
    except ValueError as error:
        raise ConfigurationError(f"{table.where}: {error}") from None
