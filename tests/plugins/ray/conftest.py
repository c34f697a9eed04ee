"""A PostgreSQL server for evaluations by many workers, and one Ray on loopback for all tests."""

import os
import warnings

import pytest

from tests.plugins.onboarding.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url", "ray"]


@pytest.fixture(scope="session")
def ray():
    """Ray, with two workers at once; it starts in seconds."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's own
        ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'unirouter[ray]'")
        pytest.importorskip("ray.data", reason="Ray Data is not installed: pip install 'unirouter[ray]'")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()
