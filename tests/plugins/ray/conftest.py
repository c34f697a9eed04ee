"""A PostgreSQL server for evaluations by many workers, and one Ray on loopback for all tests."""

import gc
import warnings

import pytest

from tests.plugins.onboarding.postgres import postgres_server, postgres_url
from tests.plugins.servers import KEY

__all__ = ["postgres_server", "postgres_url", "ray"]


@pytest.fixture(scope="session")
def ray():
    """Ray, with two workers at once; it starts in seconds."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_worker_niceness", "0")  # its own, 15, starves them on a busy machine
        patch.setenv("LOOPBACK", KEY)  # workers have the environment of now
        warnings.simplefilter("ignore")  # of Ray's own
        ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'unirouter[ray]'")
        pytest.importorskip("ray.data", reason="Ray Data is not installed: pip install 'unirouter[ray]'")
        started = True
        try:
            ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        except Exception as failed:
            ray.shutdown()
            if "timed out during startup" not in str(failed):
                raise
            started = False
        gc.collect()  # what a failed start has left warns here, not in the next test
        if not started:
            pytest.skip("Ray, which gives itself 30 seconds to start, did not on this busy machine")
        ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()
