"""Every schedule: tests walk the registries, so a new row is tested without a new test."""

from __future__ import annotations

import pytest

from unnoise.diffusion.schedules import SCHEDULES, Schedule


@pytest.fixture(params=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    return SCHEDULES[request.param](1000)
