"""The pair's state table, and what a primary makes of what it finds at the remote array."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from mgmt.array.replication.admission import Finding, Memory, RemoteUnfit, judge
from mgmt.array.replication.pair_state import (
    TRANSITIONS,
    PairInput,
    PairState,
    Role,
    WrongState,
    after,
    follow,
)
from mgmt.array.replication.remote_log import Superblock

P, S = Role.PRIMARY, Role.SECONDARY


def test_the_life_of_a_pair_is_that_of_truecopy() -> None:
    place = (P, PairState.SMPL)
    for what, state in (
        (PairInput.CREATE, PairState.COPY),
        (PairInput.COPIED, PairState.PAIR),
        (PairInput.SPLIT, PairState.PSUS),
        (PairInput.RESYNC, PairState.COPY),
        (PairInput.ERROR, PairState.PSUE),
        (PairInput.RESYNC, PairState.COPY),
        (PairInput.COPIED, PairState.PAIR),
        (PairInput.ERROR, PairState.PSUE),
        (PairInput.RECOVERED, PairState.PAIR),
        (PairInput.DELETE, PairState.SMPL),
    ):
        place = after(place, what)
        assert place == (P, state)


def test_a_takeover_and_the_way_back_change_the_roles() -> None:
    assert after((S, PairState.PAIR), PairInput.TAKEOVER) == (S, PairState.SSWS)
    assert after((S, PairState.SSWS), PairInput.PROMOTE) == (P, PairState.COPY)
    assert after((P, PairState.PSUE), PairInput.DEMOTE) == (S, PairState.COPY)
    assert after((P, PairState.PAIR), PairInput.DEMOTE) == (S, PairState.PAIR)
    assert after((S, PairState.PAIR), PairInput.PROMOTE) == (P, PairState.COPY)


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ((P, PairState.SMPL), PairInput.SPLIT),
        ((P, PairState.PAIR), PairInput.RESYNC),
        ((P, PairState.PSUS), PairInput.SPLIT),
        ((P, PairState.PAIR), PairInput.TAKEOVER),
        ((S, PairState.SSWS), PairInput.TAKEOVER),
        ((S, PairState.COPY), PairInput.PROMOTE),
        ((S, PairState.PAIR), PairInput.DEMOTE),
        ((P, PairState.SMPL), PairInput.DELETE),
    ],
)
def test_a_wish_that_does_not_fit_is_refused_with_the_states_that_do(
    place: tuple[Role, PairState], what: PairInput
) -> None:
    with pytest.raises(WrongState, match=re.escape(f"the pair is {place[1]}")) as refused:
        after(place, what)
    assert "\n" not in str(refused.value)


def test_every_row_leads_to_a_state_that_something_leads_out_of() -> None:
    sources = {place for place, _ in TRANSITIONS}
    assert set(TRANSITIONS.values()) <= sources


def test_a_secondary_follows_what_the_primary_tells_but_not_after_a_takeover() -> None:
    assert follow((S, PairState.COPY), PairState.PAIR) == (S, PairState.PAIR)
    assert follow((S, PairState.PAIR), PairState.COPY) == (S, PairState.COPY)
    assert follow((S, PairState.PAIR), PairState.PSUS) == (S, PairState.PSUS)
    assert follow((S, PairState.PSUS), PairState.COPY) == (S, PairState.COPY)
    for told in PairState:
        assert follow((S, PairState.SSWS), told) == (S, PairState.SSWS)


MEMORY = Memory(name="g1", group=b"g" * 16, generation=3, epoch=40, last_seq=900)
FOUND = Superblock(
    group=b"g" * 16,
    generation=3,
    version=80,
    epoch=40,
    last_seq=890,
    consistent=True,
    states=(PairState.PAIR,),
    primary="east",
)


@pytest.mark.parametrize(
    ("found", "memory", "finding"),
    [
        (None, replace(MEMORY, epoch=0), Finding.BEGIN),
        (FOUND, MEMORY, Finding.CONTINUE),
        (replace(FOUND, epoch=41, last_seq=900), MEMORY, Finding.CONTINUE),
        (replace(FOUND, epoch=41, last_seq=901), MEMORY, Finding.AHEAD),
        (replace(FOUND, group=bytes(16)), MEMORY, Finding.BEGIN),
        (replace(FOUND, changes=True, epoch=0), MEMORY, Finding.CHANGES),
    ],
)
def test_what_is_as_new_as_it_must_be_is_gone_on_with(
    found: Superblock | None, memory: Memory, finding: Finding
) -> None:
    assert judge(found, memory) is finding


@pytest.mark.parametrize(
    ("found", "memory", "text"),
    [
        (None, MEMORY, "came back with old data: it had epoch 40, and its journal volume is empty"),
        (replace(FOUND, epoch=39), MEMORY, "old data: it is at epoch 39, and had acknowledged epoch 40"),
        (replace(FOUND, generation=2), MEMORY, "old data: generation 2 instead of 3"),
        (replace(FOUND, generation=4), MEMORY, "was taken over since"),
        (replace(FOUND, generation=2), replace(MEMORY, epoch=0), "the old primary east was not told"),
        (replace(FOUND, group=b"h" * 16), MEMORY, "busy with another group, of array east"),
    ],
)
def test_what_would_lose_or_overwrite_something_is_refused_and_explained(
    found: Superblock | None, memory: Memory, text: str
) -> None:
    with pytest.raises(RemoteUnfit, match=text) as refused:
        judge(found, memory)
    assert "\n" not in str(refused.value)
