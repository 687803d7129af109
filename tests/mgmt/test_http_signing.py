"""Signed messages and token buckets: nothing forged, nothing twice, nothing without bound."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgmt.http.rates import Buckets, Rate
from mgmt.http.signing import KeyFileError, NotAuthentic, SigningKey, Verifier, read_key

KEY = SigningKey("probe-east", b"0123456789abcdef")
SECOND = 10**9


def nonce(number: int) -> str:
    return f"{number:032x}"


def test_what_is_signed_is_taken_once() -> None:
    verifier = Verifier({KEY.name: KEY})
    header = KEY.sign("/messages", b"body", now_s=1000, nonce=nonce(1))
    assert verifier.verify(header, "/messages", b"body", now_s=1010) == "probe-east"
    with pytest.raises(NotAuthentic, match="used before"):
        verifier.verify(header, "/messages", b"body", now_s=1011)
    assert verifier.verify(
        KEY.sign("/messages", b"body", now_s=1000, nonce=nonce(2)), "/messages", b"body", now_s=1011
    )


@pytest.mark.parametrize(
    "forged",
    [
        lambda header: "",
        lambda header: header.replace("mac=", "mac=0")[:-1],
        lambda header: header.replace("probe-east", "probe-west"),
        lambda header: header.replace("time=1000", "time=1001"),
        lambda header: header.replace(nonce(1), nonce(2)),
        lambda header: header + ",",
        lambda header: "x" * 100_000,
    ],
)
def test_a_header_that_is_changed_is_refused(forged: object) -> None:
    assert callable(forged)
    header = forged(KEY.sign("/messages", b"body", now_s=1000, nonce=nonce(1)))
    with pytest.raises(NotAuthentic):
        Verifier({KEY.name: KEY}).verify(header, "/messages", b"body", now_s=1000)


def test_another_body_path_or_key_is_refused() -> None:
    header = KEY.sign("/messages", b"body", now_s=1000, nonce=nonce(1))
    other = Verifier({KEY.name: SigningKey(KEY.name, b"another key here")})
    for verifier, path, body in (
        (Verifier({KEY.name: KEY}), "/messages", b"bodY"),
        (Verifier({KEY.name: KEY}), "/other", b"body"),
        (other, "/messages", b"body"),
        (Verifier({}), "/messages", b"body"),
    ):
        with pytest.raises(NotAuthentic, match="not that of a key"):
            verifier.verify(header, path, body, now_s=1000)


def test_a_signature_is_good_for_a_minute_around_its_time() -> None:
    header = KEY.sign("/m", b"", now_s=1000, nonce=nonce(1))
    for now_s in (939, 1061):
        with pytest.raises(NotAuthentic, match="60 s"):
            Verifier({KEY.name: KEY}).verify(header, "/m", b"", now_s=now_s)
    for now_s in (940, 1060):
        Verifier({KEY.name: KEY}).verify(header, "/m", b"", now_s=now_s)


def test_what_is_remembered_is_bounded_by_time_and_by_count() -> None:
    verifier = Verifier({KEY.name: KEY}, nonce_limit=10)

    def send(number: int, now_s: int) -> None:
        verifier.verify(KEY.sign("/m", b"", now_s=now_s, nonce=nonce(number)), "/m", b"", now_s=now_s)

    for number in range(10):
        send(number, 1000)
    with pytest.raises(NotAuthentic, match="too many"):
        send(10, 1000)
    assert len(verifier._seen) == 10
    send(11, 1121)
    assert len(verifier._seen) == 1


@given(st.integers(0, 10**6), st.integers(-200, 200), st.integers(0, 400))
def test_no_signature_is_ever_taken_twice(at_s: int, first_s: int, later_s: int) -> None:
    verifier = Verifier({KEY.name: KEY})
    header = KEY.sign("/m", b"", now_s=at_s, nonce=nonce(1))
    taken = 0
    for now_s in (at_s + first_s, at_s + first_s + later_s):
        try:
            verifier.verify(header, "/m", b"", now_s=now_s)
            taken += 1
        except NotAuthentic:
            continue
    assert taken <= 1


def test_a_key_is_read_from_a_file_of_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "east.key"
    file.write_bytes(b"0123456789abcdef\n")
    with pytest.raises(KeyFileError, match="others can read"):
        read_key(file)
    file.chmod(0o600)
    key = read_key(file)
    assert (key.name, key.secret) == ("east", b"0123456789abcdef") and "0123" not in repr(key)
    file.write_bytes(b"short")
    with pytest.raises(KeyFileError, match="16 to 4096 bytes"):
        read_key(file)
    with pytest.raises(KeyFileError, match="no such file"):
        read_key(tmp_path / "none.key")
    with pytest.raises(KeyFileError, match="names the key"):
        read_key(tmp_path / "a b")


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    buckets = Buckets(Rate(per_second=2, burst=3))
    assert [buckets.take("a", 0) for _ in range(4)] == [0, 0, 0, SECOND // 2]
    assert buckets.take("b", 0) == 0
    assert buckets.take("a", SECOND // 2) == 0 and buckets.take("a", SECOND // 2) == SECOND // 2
    assert [buckets.take("a", 100 * SECOND) for _ in range(4)] == [0, 0, 0, SECOND // 2]


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    buckets = Buckets(Rate(per_second=1, burst=1))
    assert buckets.take("a", 10 * SECOND) == 0
    assert buckets.take("a", 0) == SECOND
    assert buckets.take("a", 10 * SECOND) == SECOND


def test_buckets_are_bounded_and_the_quietest_client_is_forgotten() -> None:
    buckets = Buckets(Rate(per_second=1, burst=1), limit=3)
    for client in "abc":
        buckets.take(client, 0)
    buckets.take("a", 1)
    buckets.take("d", 2)
    assert len(buckets) == 3
    assert buckets.take("a", 3) > 0 and buckets.take("b", 3) == 0


@given(st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(1, 5)), max_size=40))
def test_no_client_ever_gets_more_than_its_rate(steps: list[tuple[int, int]]) -> None:
    buckets = Buckets(Rate(per_second=10, burst=5))
    now, taken = 0, 0
    for gap, wanted in steps:
        now += gap
        taken += sum(buckets.take("a", now) == 0 for _ in range(wanted))
        assert taken <= 5 + now * 10 / SECOND + 1e-6
