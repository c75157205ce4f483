"""The tests need Debian 12's python3-pytest; see vm/__init__.py for the rest."""

pytest_plugins = ["vm.pytest_plugin"]
