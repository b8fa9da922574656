"""Every example in a docstring of the product prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

PACKAGES = ("traces", "hwmodels", "simulator", "experiments")
MODULES = [
    name
    for package in PACKAGES
    for name in (
        package,
        *(found.name for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")),
    )
]
FIRST_READ = (
    "traces.reader",
    "hwmodels.units",
    "hwmodels.roofline",
    "hwmodels.spec",
    "simulator.plan",
    "simulator.policies.cache.base",
    "experiments.run",
)


def examples(name: str) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(importlib.import_module(name)) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_print_what_they_say(name):
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for test in examples(name):
        runner.run(test, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("name", FIRST_READ)
def test_what_a_newcomer_reads_first_has_an_example(name):
    assert examples(name)
