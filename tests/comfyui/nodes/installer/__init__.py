"""Can be imported only after its install.py has run; it has no other list of what it needs."""

import os

VERSION = "0.1.0"
INSTALLED = os.path.join(os.path.dirname(os.path.realpath(__file__)), "installed.txt")

if not os.path.exists(INSTALLED):
    raise ImportError("run install.py first")
with open(INSTALLED, encoding="utf-8") as file:
    TEXT = file.read().strip()


class InstallerReport:
    """What install.py has left."""

    RETURN_TYPES = ("STRING",)
    FUNCTION = "report"
    CATEGORY = "installer"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def report(self):
        return (TEXT,)


NODE_CLASS_MAPPINGS = {"InstallerReport": InstallerReport}
