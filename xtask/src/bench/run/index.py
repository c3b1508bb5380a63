"""Makes the pages of a package index (PEP 503) from wheels that tests/wheels/describe.py has described.

    python index.py DIRECTORY

DIRECTORY/files holds the wheels; DIRECTORY/simple is written. Any static web server can serve the directory.
"""

import html
import json
import os
import re
import sys

directory = sys.argv[1]
with open(os.path.join(directory, "files", "index.json"), encoding="utf-8") as file:
    wheels = json.load(file)
pages = {}
for wheel in wheels:
    name = re.sub(r"[-_.]+", "-", wheel["name"]).lower()
    metadata = f"sha256={wheel['metadata_sha256']}"
    python = html.escape(wheel["requires_python"] or "")
    pages.setdefault(name, []).append(
        f'<a href="../../files/{wheel["file"]}#sha256={wheel["sha256"]}" data-requires-python="{python}" '
        f'data-core-metadata="{metadata}" data-dist-info-metadata="{metadata}">{wheel["file"]}</a>')
for name, links in pages.items():
    os.makedirs(os.path.join(directory, "simple", name), exist_ok=True)
    with open(os.path.join(directory, "simple", name, "index.html"), "w", encoding="utf-8") as file:
        file.write("<!DOCTYPE html><html><body>\n" + "\n".join(links) + "\n</body></html>\n")
