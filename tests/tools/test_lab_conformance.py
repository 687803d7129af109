"""The same cases on the kernel's target and on the emulator: they differ where docs/conformance.md says, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from iscsi_target.lio.model import Backstore, Description, KernelTarget, Lun, Plugin, Portal, PortalGroup
from tests import lab_guest
from tests.tools.test_lab_lio import DEMO
from tools.conformance_differences import DIFFERENCES, differences_table
from tools.lab.driver import CLEAR, apply
from tools.libiscsi_suite import EXCEPTIONS, KINDS, SKIP, Missing, listed, run_one, served, suite, verdict_of

IQN = "iqn.2003-10.example.test:conformance"
BOTH = {test for one in DIFFERENCES for test in one.tests}
RACES = {test for one in DIFFERENCES if one.race for test in one.tests}
_ONE_S = 150
"""For one case: an emulated processor on a machine with other work is slow."""
SAME = (
    "Read10.Simple",
    "Write16.Simple",
    "Inquiry.Standard",
    "ProutReserve.AccessEA",
    "ReportSupportedOpcodes.Simple",
)


def test_the_page_has_the_differences_that_the_tests_look_at():
    page = Path(__file__).resolve().parents[2] / "docs/conformance.md"
    assert differences_table() in page.read_text()


@pytest.fixture
def lio_url(lab):
    """A file-backed unit of LIO with thin provisioning."""
    thin = {"emulate_tpu": "1", "emulate_tpws": "1"}
    store = Backstore(
        plugin=Plugin.FILEIO,
        name="unit",
        device="/tmp/unit.img",
        size_bytes=64 << 20,
        write_back=True,
        attributes=thin,
    )
    group = PortalGroup(
        luns=[Lun(number=0, plugin=Plugin.FILEIO, backstore="unit")],
        portals=[Portal(address="0.0.0.0", port=3260)],
        attributes=DEMO,
    )
    wanted = Description(backstores=[store], targets=[KernelTarget(wwn=IQN, groups=[group])])
    apply(lab, wanted)
    yield f"iscsi://127.0.0.1:{lab.forward(3260)}/{IQN}/0"
    lab.run(f"{CLEAR}; rm -f /tmp/unit.img")


def verdicts(url, names):
    try:
        suite()
    except Missing as missing:
        pytest.skip(str(missing))
    return {name: verdict_of(run_one((url, url), name, _ONE_S)) for name in names}


def expected(which):
    return {test: getattr(one, which) for one in DIFFERENCES for test in one.tests}


class TestInTheLab:
    """With a real kernel."""

    pytestmark = lab_guest.MARKS

    def test_the_differences_are_those_that_the_page_explains(self, lio_url, tmp_path):
        found = verdicts(lio_url, sorted(BOTH))
        with served(KINDS[0], tmp_path) as (url, _second):
            ours = verdicts(url, sorted(BOTH))
        assert {test: found[test] for test in found if test not in RACES} == {
            test: verdict for test, verdict in expected("lio").items() if test not in RACES
        }
        assert ours == expected("emulator")

    def test_of_the_rest_a_sample_ends_alike(self, lio_url, tmp_path):
        found = verdicts(lio_url, SAME)
        with served(KINDS[0], tmp_path) as (url, _second):
            ours = verdicts(url, SAME)
        assert {name: verdict for name, verdict in ours.items() if verdict != found[name] != SKIP} == {}

    @pytest.mark.soak
    @pytest.mark.timeout(1800)
    def test_the_whole_suite_differs_nowhere_else(self, lio_url, tmp_path):
        names = listed()
        found = verdicts(lio_url, names)
        with served(KINDS[0], tmp_path) as (url, _second):
            ours = verdicts(url, sorted(KINDS[0].expected(names)))
        other = {
            name: (verdict, found[name])
            for name, verdict in ours.items()
            if SKIP not in (verdict, found[name]) and verdict != found[name] and name not in BOTH | EXCEPTIONS
        }
        assert other == {}
