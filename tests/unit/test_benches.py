"""What is measured is what there is: benches keep up with the code."""

from __future__ import annotations

from bench.forwarder import BATCH, figures


def test_the_forwarder_can_be_measured_on_every_way() -> None:
    """Its own policy had no fast path, when the forwarder had come to ask for one."""
    found = figures(BATCH)
    assert len(found) == 10
    assert all(figure.microseconds > 0 for figure in found)
