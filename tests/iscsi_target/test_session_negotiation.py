"""The negotiation engine against the rules of RFC 7143 section 6.2 and the rows of section 13."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_target.errors import NegotiationError
from iscsi_target.session.keys import KEYS, Rule, When
from iscsi_target.session.negotiation import Negotiation, Role
from iscsi_target.session.parameters import FIELDS, Agreed, Parameters

WISHES = Parameters(
    max_connections=4,
    initial_r2t=False,
    immediate_data=True,
    max_burst_length=100_000,
    first_burst_length=50_000,
    default_time2wait=3,
    default_time2retain=30,
    max_outstanding_r2t=2,
    max_recv_data_segment_length=16384,
)


def target(**options: bool) -> Negotiation:
    return Negotiation(Role.TARGET, WISHES, **options)


def answer(key: str, value: str, **options: bool) -> str | None:
    return dict(target(**options).receive([(key, value)], When.OPERATIONAL)).get(key)


@pytest.mark.parametrize(
    ("key", "offered", "expected"),
    [
        ("HeaderDigest", "CRC32C,None", "CRC32C"),
        ("HeaderDigest", "None", "None"),
        ("DataDigest", "x-own,CRC32C", "CRC32C"),
        ("DataDigest", "x-own", "Reject"),
        ("MaxConnections", "2", "2"),
        ("MaxConnections", "8", "4"),
        ("MaxConnections", "0", "Reject"),
        ("InitialR2T", "Yes", "Yes"),
        ("InitialR2T", "No", "No"),
        ("ImmediateData", "No", "No"),
        ("ImmediateData", "Yes", "Yes"),
        ("ImmediateData", "maybe", "Reject"),
        ("MaxBurstLength", "0x10000", "65536"),
        ("MaxBurstLength", "16776192", "100000"),
        ("MaxBurstLength", "511", "Reject"),
        ("MaxBurstLength", "many", "Reject"),
        ("FirstBurstLength", "4096", "4096"),
        ("DefaultTime2Wait", "0", "3"),
        ("DefaultTime2Wait", "9", "9"),
        ("DefaultTime2Retain", "0", "0"),
        ("DefaultTime2Retain", "3601", "Reject"),
        ("MaxOutstandingR2T", "1", "1"),
        ("DataPDUInOrder", "No", "Yes"),
        ("DataSequenceInOrder", "No", "Yes"),
        ("ErrorRecoveryLevel", "2", "0"),
        ("TaskReporting", "FastAbort,RFC3720", "FastAbort"),
        ("TaskReporting", "Vendor,RFC3720", "RFC3720"),
        ("iSCSIProtocolLevel", "31", "2"),
        ("IFMarker", "Yes", "No"),
        ("OFMarkInt", "2048~4096", "Reject"),
        ("X-net.example.feature", "1", "NotUnderstood"),
        ("InitiatorAlias", "me", None),
    ],
)
def test_the_target_answers_by_the_rule_of_the_key(key: str, offered: str, expected: str | None) -> None:
    assert answer(key, offered) == expected


@pytest.mark.parametrize("key", ["MaxConnections", "InitialR2T", "MaxBurstLength", "TaskReporting"])
def test_what_means_nothing_in_a_discovery_session_is_irrelevant(key: str) -> None:
    value = (
        "Yes"
        if KEYS[key].rule in (Rule.OR, Rule.AND)
        else "RFC3720"
        if KEYS[key].rule is Rule.LIST
        else "1000"
    )
    assert answer(key, value, discovery=True) == "Irrelevant"


def test_session_wide_keys_are_irrelevant_on_a_further_connection() -> None:
    assert answer("MaxBurstLength", "65536", leading=False) == "Irrelevant"
    assert answer("HeaderDigest", "CRC32C", leading=False) == "CRC32C"


def test_each_side_declares_its_own_segment_length() -> None:
    negotiation = target()
    assert negotiation.receive([("MaxRecvDataSegmentLength", "4096")], When.OPERATIONAL) == [
        ("MaxRecvDataSegmentLength", "16384")
    ]
    assert negotiation.agreed().max_send_data_segment_length == 4096
    assert negotiation.agreed().max_recv_data_segment_length == 16384


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MaxRecvDataSegmentLength", "511"),
        ("MaxRecvDataSegmentLength", "0x1000000"),
        ("SessionType", "Party"),
        ("InitiatorAlias", "x" * 256),
        ("TargetPortalGroupTag", "1"),
        ("SendTargets", "All"),
        ("AuthMethod", "None"),
    ],
)
def test_what_the_initiator_may_not_send_in_this_stage_fails_the_negotiation(key: str, value: str) -> None:
    with pytest.raises(NegotiationError):
        target().receive([(key, value)], When.OPERATIONAL)


def test_a_key_sent_twice_fails_the_negotiation() -> None:
    negotiation = target()
    negotiation.receive([("ImmediateData", "Yes")], When.OPERATIONAL)
    with pytest.raises(NegotiationError, match="twice"):
        negotiation.receive([("ImmediateData", "No")], When.OPERATIONAL)


def test_without_any_offer_the_standards_defaults_hold() -> None:
    assert target().agreed() == Agreed()


def test_the_first_burst_never_exceeds_the_burst() -> None:
    negotiation = target()
    negotiation.receive([("MaxBurstLength", "1024"), ("FirstBurstLength", "4096")], When.OPERATIONAL)
    assert negotiation.agreed().first_burst_length == 1024


def test_the_table_holds_each_default_that_the_outcome_has() -> None:
    for name, field in FIELDS.items():
        assert KEYS[name].default == getattr(Agreed(), field)


segment = st.integers(512, 0xFFFFFF)
wishes = st.builds(
    lambda burst, first, **rest: Parameters(
        max_burst_length=max(burst, first), first_burst_length=first, **rest
    ),
    segment,
    segment,
    max_connections=st.integers(1, 65535),
    initial_r2t=st.booleans(),
    immediate_data=st.booleans(),
    max_recv_data_segment_length=segment,
    default_time2wait=st.integers(0, 3600),
    default_time2retain=st.integers(0, 3600),
    max_outstanding_r2t=st.integers(1, 65535),
    error_recovery_level=st.integers(0, 2),
    header_digest=st.sampled_from([("None",), ("CRC32C", "None"), ("None", "CRC32C")]),
    iscsi_protocol_level=st.integers(1, 2),
)


@given(wishes, wishes)
def test_two_real_ends_agree_on_the_same_values(ours: Parameters, theirs: Parameters) -> None:
    initiator, acceptor = Negotiation(Role.INITIATOR, ours), Negotiation(Role.TARGET, theirs)
    answers = acceptor.receive(initiator.offer(), When.OPERATIONAL)
    assert initiator.receive(answers, When.OPERATIONAL) == []
    mine, yours = initiator.agreed(), acceptor.agreed()
    swapped = dataclasses.replace(
        yours,
        max_recv_data_segment_length=yours.max_send_data_segment_length,
        max_send_data_segment_length=yours.max_recv_data_segment_length,
    )
    assert mine == swapped
    assert mine.max_burst_length == min(ours.max_burst_length, theirs.max_burst_length)
    assert mine.initial_r2t == (ours.initial_r2t or theirs.initial_r2t)
    assert mine.immediate_data == (ours.immediate_data and theirs.immediate_data)
    assert mine.default_time2wait == max(ours.default_time2wait, theirs.default_time2wait)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("HeaderDigest", "SHA"),
        ("HeaderDigest", "Reject"),
        ("MaxConnections", "5"),
        ("InitialR2T", "what"),
        ("MaxBurstLength", "100001"),
        ("DefaultTime2Wait", "2"),
    ],
)
def test_the_initiator_takes_no_answer_that_its_offer_does_not_allow(key: str, value: str) -> None:
    initiator = Negotiation(Role.INITIATOR, WISHES)
    initiator.offer()
    with pytest.raises(NegotiationError):
        initiator.receive([(key, value)], When.OPERATIONAL)


def test_an_answer_of_irrelevant_leaves_the_default() -> None:
    initiator = Negotiation(Role.INITIATOR, WISHES)
    initiator.offer()
    initiator.receive([("MaxOutstandingR2T", "Irrelevant")], When.OPERATIONAL)
    assert initiator.agreed().max_outstanding_r2t == 1


@given(st.lists(st.tuples(st.sampled_from([*KEYS, "X-foo"]), st.text(max_size=40)), max_size=12))
def test_any_text_gets_answers_or_a_negotiation_error(pairs: list[tuple[str, str]]) -> None:
    negotiation = target()
    try:
        answers = negotiation.receive(pairs, When.OPERATIONAL)
    except NegotiationError:
        return
    assert {key for key, _ in answers} <= {key for key, _ in pairs}
