def test_what_is_written_is_read(initiator, faults, target_log):
    faults.add_table({"name": "slow", "action": "delay", "delay": "5ms", "opcode": "data-in"})
    initiator.write(8, b"x" * 512)
    assert initiator.read(8, 1) == b"x" * 512
    target_log.expect(opcode="data-in", rule="slow", count=1)
