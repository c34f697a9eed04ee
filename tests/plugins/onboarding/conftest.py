"""A PostgreSQL server for the tests of the store."""

from tests.plugins.onboarding.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]
