"""Real frames, damaged: every decoder gives a message or one declared error, and what it gives is stable."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from fcsim.errors import MalformedFrame
from fcsim.wire.els import decode_els
from fcsim.wire.fcip import FcipFramer, decode_fcip, encode_fcip
from fcsim.wire.fcoe import decode_fcoe, encode_fcoe
from fcsim.wire.fip import decode_fip, encode_fip
from fcsim.wire.frame import decode_frame, encode_frame
from fcsim.wire.payload import ExchangeMemory, decode_payload, encode_payload
from fcsim.wire.switch_services import decode_sw_ils
from tests.fcsim.test_fc_wire_captures import VECTORS, frame_of

RAW = [bytes.fromhex(vector["hex"]) for vector in VECTORS]
PAYLOADS = [(vector, frame) for vector in VECTORS if (frame := frame_of(vector)) is not None]


def damaged(rng: random.Random, data: bytes) -> bytes:
    """`data` with bits flipped, bytes cut out, put in or replaced by those of another frame."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        position = rng.randrange(len(out) + 1)
        kind = rng.randrange(5)
        if kind == 0 and out:
            out[position % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[position % len(out)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del out[position : position + rng.randint(1, 8)]
        elif kind == 3:
            out[position:position] = rng.randbytes(rng.randint(1, 8))
        else:
            other = rng.choice(RAW)
            out[position:] = other[rng.randrange(len(other)) :]
    return bytes(out)


DECODERS: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {
    "frame": (decode_frame, encode_frame),
    "fcoe": (decode_fcoe, encode_fcoe),
    "fcip": (decode_fcip, encode_fcip),
    "fip": (decode_fip, encode_fip),
    "els": (decode_els, encode_payload),
    "sw_ils": (decode_sw_ils, encode_payload),
}


def fuzz(
    decode: Callable[[bytes], Any], encode: Callable[[Any], bytes], data: bytes, seen: Counter[str]
) -> None:
    try:
        message = decode(data)
    except MalformedFrame as error:
        assert "\n" not in str(error)
        seen["malformed"] += 1
        return
    seen["read"] += 1
    # Damage in reserved bits and fill bytes goes with the first encoding; after it nothing changes any more.
    clean = decode(encode(message))
    assert decode(encode(clean)) == clean


def run(name: str, seed: int, rounds: int) -> Counter[str]:
    decode, encode = DECODERS[name]
    rng, seen = random.Random(seed), Counter[str]()
    own = [raw for raw, vector in zip(RAW, VECTORS, strict=True) if vector["form"] == name]
    for _ in range(rounds):
        fuzz(decode, encode, damaged(rng, rng.choice(own)), seen)
    return seen


def run_payloads(seed: int, rounds: int) -> Counter[str]:
    rng, seen = random.Random(seed), Counter[str]()
    for _ in range(rounds):
        vector, frame = rng.choice(PAYLOADS)
        payload = damaged(rng, frame.payload)
        for answers in (vector.get("answers"), rng.randrange(256)):
            try:
                message = decode_payload(replace(frame, payload=payload), answers)
            except MalformedFrame as error:
                assert "\n" not in str(error)
                seen["malformed"] += 1
                continue
            seen["read"] += 1
            assert decode_payload(replace(frame, payload=encode_payload(message)), answers) == message
    return seen


@pytest.mark.parametrize("name", DECODERS)
def test_a_damaged_frame_is_read_or_malformed_and_what_is_read_is_stable(name: str) -> None:
    seen = run(name, seed=1, rounds=4000)
    assert seen["malformed"] > 20
    assert seen["read"] > 20 or name == "fcip"


def test_a_damaged_payload_is_read_or_malformed_and_what_is_read_is_stable() -> None:
    seen = run_payloads(seed=2, rounds=4000)
    assert min(seen["malformed"], seen["read"]) > 100


def test_a_damaged_stream_is_cut_or_malformed_and_never_held_beyond_one_frame() -> None:
    rng = random.Random(3)
    own = [raw for raw, vector in zip(RAW, VECTORS, strict=True) if vector["form"] == "fcip"]
    ends = Counter[str]()
    for _ in range(300):
        stream = b"".join(rng.sample(own, 4))
        stream = damaged(rng, stream)
        framer, memory = FcipFramer(), ExchangeMemory(limit=2)
        try:
            for start in range(0, len(stream), 50):
                for whole in framer.receive(stream[start : start + 50]):
                    message = decode_fcip(whole)
                    memory.decode(message.delimited.frame)  # type: ignore[union-attr]
            ends["whole"] += 1
        except MalformedFrame:
            ends["malformed"] += 1
    assert min(ends["whole"], ends["malformed"]) > 5


def run_for(name: str, seeds: Iterable[int], seconds: float) -> Counter[str]:
    """Rounds of one decoder with one seed after the other, until the time is over; a failure says its seed."""
    seen, end_s = Counter[str](), time.monotonic() + seconds
    for seed in seeds:
        try:
            seen += run_payloads(seed, 500) if name == "payload" else run(name, seed, 1000)
        except Exception as error:
            error.add_note(f"decoder {name}, seed {seed}")
            raise
        if time.monotonic() >= end_s:
            break
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DECODERS, "payload"])
def test_twenty_seconds_of_damaged_frames_are_read_or_malformed(name: str) -> None:
    """The same seeds everywhere: a fast machine gets further, but nowhere where none has been."""
    seen = run_for(name, range(1000, 3000), 20)
    assert min(seen["malformed"], seen["read"] + 100 * (name == "fcip")) > 100


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", [*DECODERS, "payload"])
def test_ten_minutes_of_damaged_frames_are_read_or_malformed(name: str) -> None:
    seen = run_for(name, itertools.count(time.time_ns() % 1_000_000_000), 600)
    assert seen["malformed"] > 1000
