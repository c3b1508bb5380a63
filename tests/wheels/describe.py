"""Writes index.json beside downloaded wheels: what a package index says of each, and its METADATA as a file.

    python describe.py DIRECTORY

The tests' own index serves from this without opening a wheel.
"""

import email.parser
import hashlib
import json
import os
import sys
import zipfile


def describe(path):
    with zipfile.ZipFile(path) as archive:
        [name] = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name)
    with open(path + ".metadata", "wb") as file:
        file.write(metadata)
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    headers = email.parser.BytesParser().parsebytes(metadata, headersonly=True)
    return {
        "file": os.path.basename(path),
        "name": headers["Name"],
        "version": headers["Version"],
        "requires_python": headers["Requires-Python"],
        "sha256": digest,
        "size": os.path.getsize(path),
        "metadata_sha256": hashlib.sha256(metadata).hexdigest(),
    }


def main():
    directory = sys.argv[1]
    wheels = sorted(name for name in os.listdir(directory) if name.endswith(".whl"))
    entries = [describe(os.path.join(directory, name)) for name in wheels]
    with open(os.path.join(directory, "index.json"), "w", encoding="utf-8") as file:
        json.dump(entries, file, indent=1)


if __name__ == "__main__":
    main()
