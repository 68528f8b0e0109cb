"""Fails if a test of the last gate run passed only on its retry, unless .ci/flaky lists it.

usage: flaky_tests.py JUNIT LIST
"""

import datetime
import os
import sys
import xml.etree.ElementTree

MOST_DAYS = 30


def listed(path):
    """The tests of the list, and its mistakes."""
    names, mistakes = set(), []
    for number, line in enumerate(open(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            day, name, _reason = line.split(maxsplit=2)
            age = datetime.date.today() - datetime.date.fromisoformat(day)
        except ValueError:
            mistakes.append(f"{path}:{number}: expected YYYY-MM-DD TEST REASON")
            continue
        names.add(name)
        if age.days > MOST_DAYS:
            mistakes.append(f"{path}:{number}: {name} has been listed for {age.days} days; fix the test")
    return names, mistakes


def flaky(path):
    """The tests that failed before they passed."""
    cases = xml.etree.ElementTree.parse(path).iter("testcase")
    return {case.get("name") for case in cases if case.find("flakyFailure") is not None or case.find("flakyError") is not None}


def main(junit, path):
    names, mistakes = listed(path)
    if os.path.exists(junit):
        mistakes += [f"{name} passed only on its retry; fix it, or list it in {path}" for name in sorted(flaky(junit) - names)]
    else:
        print("skipped: cargo nextest is missing, so no test was retried")
    sys.exit("\n".join(mistakes) or None)


main(*sys.argv[1:])
