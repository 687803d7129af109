# SPDX-License-Identifier: Apache-2.0
"""Ports as Brocade's and Cisco's switches print them: the credit parts of portBufferShow, portStatsShow, `show
interface bbcredit` and `show interface counters`, from the rows of :mod:`fcsim.fabric.results`.

Headings and wording are theirs; a number that they have and a row has not is `-` or left out, never made up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
TICK_PS = 2_500_000


def fos(rows: Sequence[Row]) -> str:
    """portBufferShow of all ports and, for each, portStatsShow."""
    return port_buffer_show(rows) + "\n" + "\n".join(port_stats_show(row) for row in rows)


def nxos(rows: Sequence[Row]) -> str:
    """show interface bbcredit and show interface counters of all ports."""
    return "\n".join((interface_bbcredit(rows), interface_counters(rows)))


def port_buffer_show(rows: Sequence[Row]) -> str:
    """portBufferShow (FOS 7.1 and later): buffers that the port grants, since those are what it has."""
    wide = max(4, *(len(row["name"]) for row in rows)) + 2
    lines = [
        f"{'User':<{wide}}Port  Lx    Max/Resv  Avg Buffer Usage & FrameSize  Buffer  Needed   Link      Remaining",
        f"{'Port':<{wide}}Type  Mode  Buffers   Tx            Rx              Usage   Buffers  Distance  Buffers",
        "-" * (wide + 86),
    ]
    for row in rows:
        long = row["type"] == "E" and row["distance_m"] > 0
        tx, rx = (
            "{}({})".format("-" if row[usage] is None else row[usage], row[size] or "-")
            for usage, size in (
                ("in_use_average_credits", "average_frame_bytes"),
                ("rx_in_use_average_credits", "rx_average_frame_bytes"),
            )
        )
        left = row["pool_left_credits"]
        used = row["rx_bb_credit"] - row["rx_remaining_credits"]
        lines.append(
            f"{row['name']:<{wide}}{row['type']:<6}{'LS' if long else '-':<6}{row['rx_bb_credit']:<10}{tx:<14}{rx:<16}"
            f"{used:<8}{row['needed_credits']:<9}{_distance(row):<10}{'-' if left is None else left}"
        )
    return "\n".join(lines) + "\n"


def port_stats_show(row: Row) -> str:
    """portStatsShow, the frames and the credit part; times in ticks of 2.5 µs, as FOS has them."""
    recovered = int(row["recovered_credits"])
    counts: Iterable[tuple[str, int, str]] = (
        ("stat_wtx", row["tx_payload_bytes"] // 4, "4-byte words transmitted (payload)"),
        ("stat_ftx", row["tx_frames"], "Frames transmitted"),
        ("stat_frx", row["rx_frames"], "Frames received"),
        ("tim_txcrd_z", row["tx_wait_2500ns_ticks"], "Time TX Credit Zero (2.5Us ticks)"),
        ("er_crc", row["corrupted_frames"], "Frames sent that arrived corrupted"),
        ("er_tx_c3_timeout", row["discards"], "Class 3 frames discarded at transmit due to timeout"),
        ("er_single_credit_loss", int(recovered == 1), "Single credit loss"),
        ("er_multi_credit_loss", int(recovered > 1), "Multiple credit loss"),
        ("lr_out", row["link_resets"], "Link resets sent"),
    )
    lines = [f"port:  {row['name']}", "=" * 9]
    lines += [f"{name:<24}{value:<16}{text}" for name, value, text in counts]
    return "\n".join(lines) + "\n"


def interface_bbcredit(rows: Iterable[Row]) -> str:
    """show interface bbcredit."""
    return "".join(
        f"{_interface(row)} is up\n"
        f"    Transmit B2B Credit is {row['bb_credit']}\n"
        f"    Receive B2B Credit is {row['rx_bb_credit']}\n"
        f"      {row['rx_remaining_credits']} receive B2B credit remaining\n"
        f"      {row['tx_remaining_credits']} transmit B2B credit remaining\n"
        for row in rows
    )


def interface_counters(rows: Iterable[Row]) -> str:
    """show interface counters, the credit part."""
    return "".join(
        f"{_interface(row)}\n"
        f"    {row['tx_frames']} frames output, {row['tx_payload_bytes']} payload bytes\n"
        f"    {row['rx_frames']} frames input\n"
        f"    {row['discards']} timeout discards, {row['link_resets']} credit loss\n"
        f"    {row['credit_zero_transitions']} Transmit B2B credit transitions to zero\n"
        f"    {_told(row['rx_credit_zero_transitions'])} Receive B2B credit transitions to zero\n"
        f"    {row['tx_wait_2500ns_ticks']} 2.5us TxWait due to lack of transmit credits\n"
        "    Percentage Tx credits not available for last 1s/1m/1h/72h: "
        f"{_percent(row['tx_wait_share_1s'])}/{_percent(row['tx_wait_share_1m'])}/"
        f"{_percent(row['tx_wait_share_1h'])}/{_percent(row['tx_wait_share_72h'])}\n"
        f"    {row['rx_remaining_credits']} receive B2B credit remaining\n"
        f"    {row['tx_remaining_credits']} transmit B2B credit remaining\n"
        for row in rows
    )


def _interface(row: Row) -> str:
    return f"fc{row['name']}" if "/" in row["name"] else str(row["name"])


def _told(value: object) -> str:
    return "-" if value is None else str(value)


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _distance(row: Row) -> str:
    metres = row["distance_m"]
    if row["type"] != "E" or not metres:
        return "-"
    return f"{metres // 1000}km" if metres >= 1000 else f"{metres}m"
