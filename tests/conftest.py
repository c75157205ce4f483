"""The tests need Debian 12's python3-pytest; see harness/__init__.py for the rest."""

pytest_plugins = ["harness.pytest_plugin"]
