"""Wanted and present to steps, without a kernel: any two descriptions, and a thousand targets."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_target.lio import saveconfig
from iscsi_target.lio.errors import InvalidDescription
from iscsi_target.lio.model import (
    Acl,
    Backstore,
    Description,
    KernelTarget,
    Lun,
    MappedLun,
    Plugin,
    Portal,
    PortalGroup,
    check,
)
from iscsi_target.lio.nodes import PARENTS, Key, Kind, Node, nodes_of
from iscsi_target.lio.plan import Change, Make, Remove, clear, plan
from tests.iscsi_target.lio_configfs import VECTORS


def carried_out(steps, present):
    """What is there after `steps`; every step finds what it needs, and nothing stands on what goes."""
    now = dict(present)
    for step in steps:
        if isinstance(step, Make):
            assert step.key not in now
            assert step.key.parent is None or step.key.parent in now, step
            assert all(link in now for link in step.node.links), step
            settings = {name: value for name, value in step.node.settings.items() if name != "enable"}
            if step.key.kind is Kind.GROUP:
                settings["enable"] = "0"
            now[step.key] = Node(step.key, step.node.made_of, settings, step.node.links)
        elif isinstance(step, Change):
            node = now[step.key]
            now[step.key] = Node(step.key, node.made_of, {**node.settings, step.name: step.new}, node.links)
        else:
            assert isinstance(step, Remove)
            assert not [
                key for key, node in now.items() if key.parent == step.key or step.key in node.links
            ], step
            del now[step.key]
    return now


names = st.sampled_from(["a", "b", "c"])


@st.composite
def descriptions(draw):
    stores = [
        Backstore(
            plugin=Plugin.RAMDISK,
            name=name,
            size_bytes=draw(st.sampled_from([4096, 8192])),
            attributes=draw(st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from("01"), max_size=2)),
        )
        for name in draw(st.lists(names, unique=True))
    ]
    targets = []
    for name in draw(st.lists(names, unique=True)):
        groups = []
        for tag in draw(st.lists(st.integers(1, 2), unique=True)):
            numbers = draw(st.lists(st.integers(0, 2), unique=True)) if stores else []
            luns = [
                Lun(number=number, plugin=Plugin.RAMDISK, backstore=draw(st.sampled_from(stores)).name)
                for number in numbers
            ]
            mapped = [
                MappedLun(number=number, lun=draw(st.sampled_from(numbers)), read_only=draw(st.booleans()))
                for number in (draw(st.lists(st.integers(0, 2), unique=True)) if numbers else [])
            ]
            groups.append(
                PortalGroup(
                    tag=tag,
                    enabled=draw(st.sampled_from([True, False, None])),
                    luns=luns,
                    acls=[
                        Acl(initiator=f"iqn.2003-10.example.test:{who}", mapped_luns=mapped)
                        for who in draw(st.lists(names, unique=True))
                    ],
                    portals=[
                        Portal(address="127.0.0.1", port=port)
                        for port in draw(st.lists(st.integers(3260, 3261), unique=True))
                    ],
                )
            )
        targets.append(KernelTarget(wwn=f"iqn.2003-10.example.test:{name}", groups=groups))
    return Description(backstores=stores, targets=targets)


@given(first=descriptions(), second=descriptions())
def test_from_any_description_to_any_other_and_then_nothing_is_left_to_do(first, second):
    check(first)
    check(second)
    present = carried_out(plan(nodes_of(first), {}).steps, {})
    ours = set(present)
    found = plan(nodes_of(second), present, ours)
    assert found.conflicts == found.foreign == found.kept == ()
    after = carried_out(found.steps, present)
    assert set(after) == set(nodes_of(second))
    assert plan(nodes_of(second), after, set(after)).steps == ()
    assert carried_out(clear(after, set(after)).steps, after) == {}


@given(first=descriptions(), second=descriptions())
def test_what_is_not_ours_is_never_removed_or_changed(first, second):
    present = carried_out(plan(nodes_of(first), {}).steps, {})
    found = plan(nodes_of(second), present)
    touched = {step.key for step in found.steps if not isinstance(step, Make) and step.key in present}
    assert touched <= set(found.conflicts) | {key for key in touched if _below(key, found.conflicts, present)}


def _below(key, conflicts, present):
    """Whether a node is a conflict's own child or user, which goes only with it."""
    while key is not None:
        if key in conflicts or any(link in conflicts for link in present[key].links):
            return True
        key = key.parent
    return False


def thousand():
    stores, targets = [], []
    for number in range(1000):
        luns = []
        for lun in range(4):
            stores.append(Backstore(plugin=Plugin.RAMDISK, name=f"s{number}-{lun}", size_bytes=4096))
            luns.append(Lun(number=lun, plugin=Plugin.RAMDISK, backstore=f"s{number}-{lun}"))
        group = PortalGroup(tag=1, luns=luns, portals=[Portal(address="127.0.0.1", port=3260)])
        targets.append(KernelTarget(wwn=f"iqn.2003-10.example.test:t{number}", groups=[group]))
    return Description(backstores=stores, targets=targets)


def test_a_thousand_targets_with_four_luns_are_planned_and_then_nothing_is_left():
    wanted = nodes_of(thousand())
    found = plan(wanted, {})
    assert len(found.steps) == 1000 * (4 + 4 + 1 + 1 + 1 + 1)
    present = {node.key: node for node in wanted.values()}
    assert plan(wanted, present, set(present)).steps == ()


def test_every_kind_of_node_knows_its_parent_and_reads_as_words():
    path = ("iscsi", "iqn.x", "1", "name", "4")
    for kind in Kind:
        depth = len(list(itertools.takewhile(bool, _parents(kind))))
        assert "{" not in str(Key(kind, path))
        assert depth <= 3


def _parents(kind):
    while kind is not None:
        kind = PARENTS[kind]
        yield kind


def test_a_device_is_given_up_before_it_is_claimed_again():
    old = Description(backstores=[Backstore(plugin=Plugin.BLOCK, name="old", device="/dev/loop0")])
    new = Description(backstores=[Backstore(plugin=Plugin.BLOCK, name="new", device="/dev/loop0")])
    present = nodes_of(old)
    steps = [str(step) for step in plan(nodes_of(new), present, set(present)).steps]
    assert steps == ["remove backstore block/old", "make backstore block/new (device /dev/loop0)"]


# -- saveconfig.json --------------------------------------------------------------------------------------------


def test_a_file_of_targetcli_goes_through_without_loss():
    document = json.loads((VECTORS / "saveconfig-2.1.json").read_text())
    document["storage_objects"][0]["exclusive"] = True  # of rtslib 2.2, and not ours to know
    document["targets"][0]["tpgs"][0]["luns"][0]["alua_tg_pt_gp_name"] = None
    document["something_new"] = {"deep": [1, None]}
    assert saveconfig.to_document(saveconfig.from_document(document)) == document


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "an object is expected"),
        ("{}", "neither storage_objects nor targets"),
        ('{"targets": 1}', "targets: a list is expected, not 1"),
        ('{"targets": [{"wwn": "x"}]}', "target x: fabric is missing"),
        (
            '{"storage_objects": [{"name": "a", "plugin": "tape"}]}',
            "storage object a: plugin is one of ramdisk,",
        ),
        ('{"storage_objects": [{"name": "a", "plugin": "fileio", "size": "4"}]}', "a: size: a whole number"),
        (
            '{"targets": [{"wwn": "x", "fabric": "iscsi", "tpgs": [{"tag": 1, "luns": [{"index": 0,'
            ' "storage_object": "ram"}]}]}]}',
            "LUN entry 1: storage_object is /backstores/PLUGIN/NAME",
        ),
    ],
)
def test_a_file_without_a_meaning_is_one_line(tmp_path, text, complaint):
    path = tmp_path / "saved.json"
    path.write_text(text)
    with pytest.raises(InvalidDescription, match=complaint) as error:
        saveconfig.load(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
