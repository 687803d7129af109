# SPDX-License-Identifier: Apache-2.0
"""Mode pages (SPC-4 7.5, SBC-3 6.5, MMC-6 7): their formats, defaults, and what MODE SELECT may change.

One description per page: a construct format, the default values and the changeable fields. The bytes of the
current, changeable and default pages all come from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import construct as c

PageId = tuple[int, int]
"""(PAGE CODE, SUBPAGE CODE)."""

READ_WRITE_ERROR_RECOVERY: PageId = (0x01, 0x00)
CACHING: PageId = (0x08, 0x00)
CONTROL: PageId = (0x0A, 0x00)
CONTROL_EXTENSION: PageId = (0x0A, 0x01)
INFORMATIONAL_EXCEPTIONS: PageId = (0x1C, 0x00)
MM_CAPABILITIES: PageId = (0x2A, 0x00)

_READ_WRITE_ERROR_RECOVERY_FORMAT = c.BitStruct(
    "awre" / c.Flag,
    "arre" / c.Flag,
    "tb" / c.Flag,
    "rc" / c.Flag,
    "eer" / c.Flag,
    "per" / c.Flag,
    "dte" / c.Flag,
    "dcr" / c.Flag,
    "read_retry_count" / c.BitsInteger(8),
    c.Padding(24),
    "lbpere" / c.Flag,
    c.Padding(7),
    "write_retry_count" / c.BitsInteger(8),
    c.Padding(8),
    "recovery_time_limit" / c.BitsInteger(16),
)
"""SBC-3 6.5.8."""

_CACHING_FORMAT = c.BitStruct(
    "ic" / c.Flag,
    "abpf" / c.Flag,
    "cap" / c.Flag,
    "disc" / c.Flag,
    "size" / c.Flag,
    "wce" / c.Flag,
    "mf" / c.Flag,
    "rcd" / c.Flag,
    "demand_read_retention_priority" / c.BitsInteger(4),
    "write_retention_priority" / c.BitsInteger(4),
    "disable_pre_fetch_transfer_length" / c.BitsInteger(16),
    "minimum_pre_fetch" / c.BitsInteger(16),
    "maximum_pre_fetch" / c.BitsInteger(16),
    "maximum_pre_fetch_ceiling" / c.BitsInteger(16),
    "fsw" / c.Flag,
    "lbcss" / c.Flag,
    "dra" / c.Flag,
    c.Padding(2),
    "sync_prog" / c.BitsInteger(2),
    "nv_dis" / c.Flag,
    "number_of_cache_segments" / c.BitsInteger(8),
    "cache_segment_size" / c.BitsInteger(16),
    c.Padding(32),
)
"""SBC-3 6.5.6."""

_CONTROL_FORMAT = c.BitStruct(
    "tst" / c.BitsInteger(3),
    "tmf_only" / c.Flag,
    "dpicz" / c.Flag,
    "d_sense" / c.Flag,
    "gltsd" / c.Flag,
    "rlec" / c.Flag,
    "queue_algorithm_modifier" / c.BitsInteger(4),
    "nuar" / c.Flag,
    "qerr" / c.BitsInteger(2),
    c.Padding(1),
    "vs" / c.Flag,
    "rac" / c.Flag,
    "ua_intlck_ctrl" / c.BitsInteger(2),
    "swp" / c.Flag,
    c.Padding(3),
    "ato" / c.Flag,
    "tas" / c.Flag,
    "atmpe" / c.Flag,
    "rwwp" / c.Flag,
    c.Padding(1),
    "autoload_mode" / c.BitsInteger(3),
    c.Padding(16),
    "busy_timeout_period" / c.BitsInteger(16),
    "extended_self_test_completion_time" / c.BitsInteger(16),
)
"""SPC-4 7.5.8."""

_CONTROL_EXTENSION_FORMAT = c.BitStruct(
    c.Padding(5),
    "tcmos" / c.Flag,
    "scsip" / c.Flag,
    "ialuae" / c.Flag,
    c.Padding(4),
    "initial_command_priority" / c.BitsInteger(4),
    "maximum_sense_data_length" / c.BitsInteger(8),
    c.Padding(25 * 8),
)
"""SPC-4 7.5.9."""

_INFORMATIONAL_EXCEPTIONS_FORMAT = c.BitStruct(
    "perf" / c.Flag,
    c.Padding(1),
    "ebf" / c.Flag,
    "ewasc" / c.Flag,
    "dexcpt" / c.Flag,
    "test" / c.Flag,
    "ebackerr" / c.Flag,
    "logerr" / c.Flag,
    c.Padding(4),
    "mrie" / c.BitsInteger(4),
    "interval_timer" / c.BitsInteger(32),
    "report_count" / c.BitsInteger(32),
)
"""SPC-4 7.5.11."""

_MM_CAPABILITIES_FORMAT = c.BitStruct(
    c.Padding(2),
    "dvd_ram_read" / c.Flag,
    "dvd_r_read" / c.Flag,
    "dvd_rom_read" / c.Flag,
    "method_2" / c.Flag,
    "cd_rw_read" / c.Flag,
    "cd_r_read" / c.Flag,
    c.Padding(8 + 8 + 8),
    "loading_mechanism_type" / c.BitsInteger(3),
    c.Padding(1),
    "eject" / c.Flag,
    "prevent_jumper" / c.Flag,
    "lock_state" / c.Flag,
    "lock" / c.Flag,
    c.Padding(15 * 8),
)
"""MMC-6 annex E.3 (CD/DVD capabilities and mechanical status), without write speeds."""


@dataclass(frozen=True, slots=True)
class ModePage:
    """One page: format of what follows the page header, default values, and the fields MODE SELECT may change."""

    page: PageId
    format: c.Construct
    defaults: dict[str, int]
    changeable: dict[str, int]

    def _build(self, values: dict[str, int]) -> bytes:
        names = [field.name for field in self.format.subcon.subcons if field.name]
        body: bytes = self.format.build(dict.fromkeys(names, 0) | values)
        code, subpage = self.page
        if subpage:
            return bytes((0x40 | code, subpage)) + len(body).to_bytes(2, "big") + body
        return bytes((code, len(body))) + body

    def default_page(self) -> bytes:
        """The page with its default values, header included, PS = 0."""
        return self._build(self.defaults)

    def changeable_page(self) -> bytes:
        """The mask of changeable bits, header included (SPC-4 6.11.3)."""
        return self._build(self.changeable)


class ModeParameters:
    """The mode pages of one logical unit, shared by all nexuses (MLUS policy, SPC-4 6.10), and what they say."""

    def __init__(self, pages: tuple[ModePage, ...]) -> None:
        self._pages = {page.page: page for page in sorted(pages, key=lambda page: page.page)}
        self._current = {page.page: page.default_page() for page in pages}
        self.wce = self.d_sense = self.swp = self.tas = False
        self._read_out()

    def identifiers(self) -> tuple[PageId, ...]:
        """The pages there are, ascending."""
        return tuple(self._pages)

    def current(self, page: PageId) -> bytes:
        """Current values, header included."""
        return self._current[page]

    def changeable(self, page: PageId) -> bytes:
        """Mask of the changeable bits, header included."""
        return self._pages[page].changeable_page()

    def default(self, page: PageId) -> bytes:
        """Default values, header included."""
        return self._pages[page].default_page()

    def rejected_byte(self, page: PageId, proposed: bytes) -> int | None:
        """The first byte of `proposed` that changes what may not change; None when all of it is acceptable."""
        current, mask = self._current[page], self.changeable(page)
        for position, (old, new, may) in enumerate(zip(current, proposed, mask, strict=True)):
            if (old ^ new) & ~may & 0xFF:
                return position
        return None

    def select(self, page: PageId, proposed: bytes) -> bool:
        """Make `proposed` (checked with `rejected_byte`) current; True when something changed."""
        changed = self._current[page] != proposed
        self._current[page] = proposed
        self._read_out()
        return changed

    def reset(self) -> None:
        """Back to the defaults: a logical unit reset (SPC-4 6.10; there are no saved values)."""
        self._current = {page.page: page.default_page() for page in self._pages.values()}
        self._read_out()

    def _values(self, page: PageId) -> Any:
        current = self._current.get(page)
        if current is None:
            return {}
        return self._pages[page].format.parse(current[4 if page[1] else 2 :])

    def _read_out(self) -> None:
        caching, control = self._values(CACHING), self._values(CONTROL)
        self.wce = bool(caching.get("wce", False))
        self.d_sense = bool(control.get("d_sense", False))
        self.swp = bool(control.get("swp", False))
        self.tas = bool(control.get("tas", False))


def disk_pages(*, write_cache: bool) -> tuple[ModePage, ...]:
    """The pages of a disk."""
    return (
        ModePage(READ_WRITE_ERROR_RECOVERY, _READ_WRITE_ERROR_RECOVERY_FORMAT, {"awre": 1, "arre": 1}, {}),
        ModePage(CACHING, _CACHING_FORMAT, {"wce": int(write_cache)}, {"wce": 1}),
        ModePage(
            CONTROL,
            _CONTROL_FORMAT,
            {"queue_algorithm_modifier": 1},
            {"d_sense": 1, "swp": 1},
        ),
        ModePage(CONTROL_EXTENSION, _CONTROL_EXTENSION_FORMAT, {"maximum_sense_data_length": 252}, {}),
        ModePage(INFORMATIONAL_EXCEPTIONS, _INFORMATIONAL_EXCEPTIONS_FORMAT, {"dexcpt": 1}, {}),
    )


def cdrom_pages() -> tuple[ModePage, ...]:
    """The pages of a CD-ROM drive."""
    return (
        ModePage(READ_WRITE_ERROR_RECOVERY, _READ_WRITE_ERROR_RECOVERY_FORMAT, {"arre": 1}, {}),
        ModePage(CONTROL, _CONTROL_FORMAT, {"queue_algorithm_modifier": 1}, {"d_sense": 1}),
        ModePage(
            MM_CAPABILITIES,
            _MM_CAPABILITIES_FORMAT,
            {"cd_r_read": 1, "cd_rw_read": 1, "loading_mechanism_type": 1, "eject": 1, "lock": 1},
            {},
        ),
    )
