# The Linux kernel's target, in a small virtual machine: sancredit lab up builds it once (about 15 s, 130 MB).
import pytest


@pytest.mark.target(luns=("16MiB", "8MiB"))
def test_the_kernel_says_who_it_is(lio_target):
    session = lio_target.initiator()
    assert bytes(session.inquiry()[8:16]) == b"LIO-ORG "
    assert session.capacity(lun=1) == (16384, 512)
    assert "6." in lio_target.machine.run("uname -r")
