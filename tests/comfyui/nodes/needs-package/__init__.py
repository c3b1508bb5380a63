"""Imports a package of its own requirements.txt."""

from sortedcontainers import SortedDict

VERSION = "0.1.0"


class NeedsPackageSort:
    RETURN_TYPES = ("STRING",)
    FUNCTION = "sort"
    CATEGORY = "needs-package"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"words": ("STRING", {"default": "b a"})}}

    def sort(self, words):
        return (" ".join(SortedDict.fromkeys(words.split())),)


NODE_CLASS_MAPPINGS = {"NeedsPackageSort": NeedsPackageSort}
