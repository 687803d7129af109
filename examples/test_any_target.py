# pytest examples/test_any_target.py --target=emulator --target=lio --target=iscsi://192.0.2.1/iqn.…/0 --allow-writes=0
def test_what_one_session_writes_another_reads(any_target):
    first, second = any_target.initiator(), any_target.initiator()
    first.write(8, b"x" * 512, lun=any_target.lun)
    assert second.read(8, 1, lun=any_target.lun) == b"x" * 512
