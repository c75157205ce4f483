"""pytest's side: the `boot` fixture, a test's kernels, and the third outcome, lost."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from harness import artefacts, local, room
from harness.lab import Lab
from harness.outcome import EmulatorFault, Lost, tail

# A file beside the logs whose time is the start of the last run.
RUN_BEGAN = "began"
LAB = pytest.StashKey[Lab]()
FAILED = pytest.StashKey[bool]()
# The section of a report that says that the emulator failed in the test's first run.
EMULATOR = "the emulator's mistake: the test ran twice"
# From the inside out: `make test`, what `make test-all` adds, what `make test-systems` adds.
TIERS = ("test", "thorough", "systems")


def pytest_configure(config: pytest.Config) -> None:
    for marker in (
        "kernels(*names): the kernels, and so the word sizes, to run the test on, else 6.1 alone",
        "thorough: not in `make test`, but in `make test-all`",
        "systems: in `make test-systems` alone",
    ):
        config.addinivalue_line("markers", marker)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if not worker and not config.getoption("collectonly", False):
        # Older logs are an earlier run's: see tests/documents/messages_met.py.
        artefacts.LOGS.mkdir(parents=True, exist_ok=True)
        (artefacts.LOGS / RUN_BEGAN).touch()
        if lack := room.lacking(config.getoption("tier")):
            raise pytest.UsageError(lack)
    local.record_to(artefacts.LOGS / "this-machine" / f"{worker or 'main'}.log")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tier",
        choices=TIERS,
        help="run the tests of one tier alone: test, thorough or systems (else all that are named)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kernel" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("kernels")
        names = marker.args if marker else artefacts.KERNELS[:1]
        metafunc.parametrize("kernel", [pytest.param(name, marks=tier_of(name)) for name in names])


def tier_of(kernel: str) -> tuple[pytest.MarkDecorator, ...]:
    """A kernel that `make test` does not build puts a test into the tier that builds it."""
    if kernel == artefacts.KERNELS[0]:
        return ()
    return (pytest.mark.systems if kernel == artefacts.NEWEST else pytest.mark.thorough,)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out other tiers, and shuffles the rest for several workers, always alike.

    Each worker takes a stretch of the list at a time, and tests that take minutes stand side by
    side in their files.
    """
    if wanted := config.getoption("tier"):
        others = [item for item in items if tier(item) != wanted]
        items[:] = [item for item in items if tier(item) == wanted]
        config.hook.pytest_deselected(items=others)
    if hasattr(config, "workerinput"):
        Random(0).shuffle(items)


def tier(item: pytest.Item) -> str:
    """The outermost tier among a test's markers."""
    return next((name for name in reversed(TIERS) if item.get_closest_marker(name)), TIERS[0])


@pytest.fixture
def boot(request: pytest.FixtureRequest, kernel: str) -> Iterator[Lab]:
    """Boots guests: `vm = boot(...)`, with the options of `harness.boot.boot`."""
    name = f"{request.node.path.stem}-{request.node.name}"
    lab = Lab(artefacts.LOGS / re.sub(r"[^\w.-]+", "_", name).strip("_"), kernel)
    request.node.stash[LAB] = lab
    yield lab
    lab.end(keep_images=request.node.stash.get(FAILED, False))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Runs a test, and once more if QEMU made a mistake. The end of the run reports that."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if mistake := next((report for report in reports if report.emulator_fault), None):
        item.stash = pytest.Stash()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        for report in reports:
            report.sections.append((EMULATOR, mistake.longreprtext))
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    report.lost = call.excinfo is not None and call.excinfo.errisinstance(Lost)
    report.emulator_fault = call.excinfo is not None and call.excinfo.errisinstance(EmulatorFault)
    if not report.failed:
        return
    if call.excinfo is not None and call.excinfo.errisinstance(artefacts.MissingArtefact):
        # One line says it all. Many tests may say the same.
        report.longrepr = str(call.excinfo.value)
    item.stash[FAILED] = True
    if lab := item.stash.get(LAB, None):
        for vm in lab.vms:
            where = vm.process.directory
            report.sections.append((f"console, {where.name}", tail(vm.console)))
            report.sections.append((f"to repeat it: {where}/qemu.sh", vm.process.command_line))


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    # Its category stays "failed": every program that counts failures counts it.
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
    twice = {
        report.nodeid: text
        for report in terminalreporter.getreports("passed") + reports
        for name, text in report.sections
        if name == EMULATOR
    }
    if twice:
        terminalreporter.section("QEMU made a mistake, so these ran twice", yellow=True)
        for nodeid, text in twice.items():
            said = [line[2:] for line in text.splitlines() if "QEMU made a mistake" in line]
            terminalreporter.line(f"{nodeid}: {said[0].strip() if said else text}")
