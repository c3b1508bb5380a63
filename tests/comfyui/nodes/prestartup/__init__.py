"""Knows whether its script ran, and ran early enough."""

import os

VERSION = "0.1.0"


class PrestartupReport:
    RETURN_TYPES = ("STRING",)
    FUNCTION = "report"
    CATEGORY = "prestartup"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def report(self):
        return (os.environ.get("PRESTARTUP_SAW_NUMPY", "did not run"),)


NODE_CLASS_MAPPINGS = {"PrestartupReport": PrestartupReport}
