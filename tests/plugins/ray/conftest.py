"""A PostgreSQL server for the tests of evaluations by many workers, and Ray."""

import warnings

import pytest

from tests.plugins.onboarding.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]


@pytest.fixture(scope="module")
def ray_cluster():
    """Ray on this machine, with two processors."""
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'unirouter[ray]'")
    import ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()
