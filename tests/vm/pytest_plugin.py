"""pytest's side: the `boot` fixture, the kernels a test runs on, and the third outcome, lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from vm import artefacts
from vm.lab import Lab
from vm.outcome import Lost, tail

LAB = pytest.StashKey[Lab]()
FAILED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "kernels(*names): the kernels, and so the word sizes, to run the test on, else 6.1 alone",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kernel" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("kernels")
        metafunc.parametrize("kernel", marker.args if marker else artefacts.KERNELS[:1])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mixes them for several workers, always alike: each takes a stretch of the list at a time, and tests
    that take minutes stand side by side in their files."""
    if hasattr(config, "workerinput"):
        Random(0).shuffle(items)


@pytest.fixture
def boot(request: pytest.FixtureRequest, kernel: str) -> Iterator[Lab]:
    """Boots guests: `vm = boot(...)`, with the options of `vm.boot.boot`."""
    name = f"{request.node.path.stem}-{request.node.name}"
    lab = Lab(artefacts.LOGS / re.sub(r"[^\w.-]+", "_", name).strip("_"), kernel)
    request.node.stash[LAB] = lab
    yield lab
    lab.end(keep_images=request.node.stash.get(FAILED, False))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    report.lost = call.excinfo is not None and call.excinfo.errisinstance(Lost)
    if not report.failed:
        return
    item.stash[FAILED] = True
    if lab := item.stash.get(LAB, None):
        for vm in lab.vms:
            where = vm.process.directory
            report.sections.append((f"console, {where.name}", tail(vm.console)))
            report.sections.append((f"to repeat it: {where}/qemu.sh", vm.process.command_line))


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    # It stays in the category "failed": whatever counts failures counts it.
    if getattr(report, "lost", False):
        return "failed", "L", "LOST"
    return None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = terminalreporter.getreports("failed") + terminalreporter.getreports("error")
    lost = [report.nodeid for report in reports if getattr(report, "lost", False)]
    if lost:
        terminalreporter.section(
            "LOST: the guest did not answer, so these say nothing about their case", red=True
        )
        for nodeid in lost:
            terminalreporter.line(nodeid)
