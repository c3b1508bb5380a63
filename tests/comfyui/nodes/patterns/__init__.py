"""A checkerboard, drawn by the library in vendor/pattern-lib. Without its submodule this node cannot be imported."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "vendor", "pattern-lib"))

import pattern_lib

VERSION = "0.1.0"


class PatternCheckerboard:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "draw"
    CATEGORY = "patterns"

    @classmethod
    def INPUT_TYPES(cls):
        side = ("INT", {"default": 64, "min": 1, "max": 4096})
        return {"required": {"width": side, "height": side, "square": ("INT", {"default": 8, "min": 1})}}

    def draw(self, width, height, square):
        return (pattern_lib.checkerboard(height, width, square)[None],)


NODE_CLASS_MAPPINGS = {"PatternCheckerboard": PatternCheckerboard}
