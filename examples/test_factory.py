# Two targets in one test; the second one's queue is full once, and a copy between them has to come through that.
import pytest

from iscsi_target.errors import CommandFailed

FULL_ONCE = {"name": "full", "command": "write", "nth": 1, "action": "queue-full"}


@pytest.mark.target(luns=("1MiB", "2MiB"))
def test_a_copy_goes_on_after_a_full_queue(target, target_factory):
    source, sink = target.initiator(), target_factory(luns=("2MiB",), rules=[FULL_ONCE]).initiator()
    source.write(0, b"data".ljust(512), lun=1)
    data = source.read(0, 1, lun=1)
    with pytest.raises(CommandFailed):
        sink.write(0, data)
    sink.write(0, data)
    assert sink.read(0, 1) == data
