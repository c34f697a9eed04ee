"""A PostgreSQL server for the tests of evaluations by many workers."""

from tests.plugins.onboarding.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]
