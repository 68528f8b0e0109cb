"""Checks bans, licences, sources and duplicates of all dependencies against deny.toml, without cargo-deny.

usage: dependencies.py DENY_TOML
"""

import collections
import json
import re
import subprocess
import sys
import tomllib


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def dependencies(targets):
    """The packages that are compiled for any of these targets. `cargo metadata` alone lists more: optional ones, too."""
    used = set()
    for target in targets:
        tree = cargo("tree", "--locked", "--workspace", "--prefix", "none", "--format", "{p}", "--target", target)
        used |= {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    packages = json.loads(cargo("metadata", "--locked", "--format-version", "1"))["packages"]
    packages = [package for package in packages if (package["name"], f"v{package['version']}") in used]
    return sorted(packages, key=lambda package: (package["name"], package["version"]))


def permits(expression, allowed):
    """Does an SPDX expression leave a choice of allowed licences only? Old crates separate alternatives with a slash."""
    tokens = re.findall(r"[()]|[^\s()]+", re.sub(r"\s+WITH\s+", "-WITH-", expression.replace("/", " OR ")))

    def alternatives():
        result = conjunction()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            result = conjunction() or result
        return result

    def conjunction():
        result = licence()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            result = licence() and result
        return result

    def licence():
        token = tokens.pop(0)
        if token == "(":
            result = alternatives()
            tokens.pop(0)
            return result
        return token in allowed

    return alternatives() and not tokens


def main(path):
    with open(path, "rb") as file:
        rules = tomllib.load(file)
    packages = dependencies(rules["graph"]["targets"])
    banned = {ban["crate"]: ban["reason"] for ban in rules["bans"]["deny"]}
    sources = {f"registry+{source}" for source in rules["sources"]["allow-registry"]}
    mistakes, versions = [], collections.defaultdict(list)
    for package in packages:
        name = f"{package['name']} {package['version']}"
        versions[package["name"]].append(package["version"])
        if package["name"] in banned:
            mistakes.append(f"{name} is banned: {banned[package['name']]}")
        if package["source"] is None:
            mistakes += [f"{name}: {one['name']} has no version" for one in package["dependencies"] if one["req"] == "*"]
            continue
        if package["source"] not in sources:
            mistakes.append(f"{name} comes from {package['source']}")
        if not package["license"] or not permits(package["license"], set(rules["licenses"]["allow"])):
            mistakes.append(f"{name} has the licence {package['license']}")
    twice = [f"{name} ({', '.join(found)})" for name, found in versions.items() if len(found) > 1]
    print(f"{len(packages)} packages; more than one version of {', '.join(twice) or 'none'}")
    sys.exit("\n".join(mistakes) or None)


main(*sys.argv[1:])
