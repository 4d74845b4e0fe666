"""The databases of the fault lab."""

from tests.store.conftest import new_database, postgres

__all__ = ["new_database", "postgres"]
