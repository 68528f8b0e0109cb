"""Fails if .cargo/layout.ld names a module of runner that does not exist: a renamed module would silently lose its place."""

import os
import re
import sys

lines = open(".cargo/layout.ld").read()
own = lines[lines.index("/* runner itself") :]
missing = []
for pattern in re.findall(r"\.text\.\*([0-9a-z_]+)\*", own):
    parts, rest = [], pattern
    while rest:
        digits = re.match(r"\d+", rest).group()
        length, rest = int(digits), rest[len(digits) :]
        parts.append(rest[:length])
        rest = rest[length:]
    path = os.path.join("src", *parts[parts[0] == "codebuild_runner" :])
    if not os.path.isdir(path) and not os.path.isfile(f"{path}.rs"):
        missing.append(f".cargo/layout.ld: {pattern}: there is no {path}.rs")
sys.exit("\n".join(missing) or None)
