# A Fibre Channel link that is too long for its credits, in simulated time.
SCENARIO = """
[fabric]
duration = "5ms"
[[host]]
name = "a"
peer = "b"
speed = "8G"
distance = "50km"
bb_credit = {credits}
[[host]]
name = "b"
peer = "a"
speed = "8G"
distance = "50km"
bb_credit = {credits}
[[flow]]
name = "copy"
from = "a"
to = "b"
"""


def test_credits_are_what_distance_costs(fc_fabric):
    few, enough = (fc_fabric(SCENARIO.format(credits=credits)) for credits in (16, 255))
    assert few.port("a")["credit_zero_time_ps"] > 0
    assert enough.flow("copy")["throughput_bps"] > 5 * few.flow("copy")["throughput_bps"]
