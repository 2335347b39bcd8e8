"""Held-out text by position, as the report shows it."""

import pytest

from ray_jobs.report import long_context


def test_a_mean_is_of_the_same_languages_in_each_bucket():
    before = {"lo 0-255": 1.0, "lo 256-511": 3.0, "th 0-255": 2.0, "th 256-511": 4.0, "zz 0-255": 9.0}
    after = {"th 256-511": 2.5, "lo 256-511": 1.5, "lo 0-255": 0.5, "th 0-255": 1.5, "zz 0-255": 8.0}
    found = long_context.section({"positions_before": before, "positions_after": after})
    assert found["buckets"] == ["0-255", "256-511"] and found["languages"] == 2
    assert dict(found["table"])["lo"] == [(1.0, 0.5), (3.0, 1.5)]
    assert dict(found["table"])["zz"] == [(9.0, 8.0), None]
    assert "<svg" in found["plot"]


@pytest.mark.parametrize("manifest", [{}, {"positions_before": {}, "positions_after": {}}])
def test_without_a_measurement_there_is_no_section(manifest):
    assert long_context.section(manifest) is None
