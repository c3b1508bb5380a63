"""Writes beside its own code, as it should, and at the core's root, as some do. Fails when asked to, by a file."""

import os
import sys

VERSION = "0.1.0"
HERE = os.path.dirname(os.path.realpath(__file__))

if os.path.exists(os.path.join(HERE, "fail-install")):
    sys.exit("asked to fail")
with open(os.path.join(HERE, "installed.txt"), "w", encoding="utf-8") as file:
    file.write(f"installed {VERSION}\n")
with open(os.path.join(HERE, "..", "..", "installer-was-here.txt"), "w", encoding="utf-8") as file:
    file.write(f"{VERSION}\n")
print(f"installer {VERSION} is installed")
