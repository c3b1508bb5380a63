"""What a launcher's tests need and no picture does: text, failure, delay."""

import comfy.model_management
import comfy.utils


class Anything(str):
    """A type that every other type matches."""

    def __ne__(self, other):
        return False


ANY = Anything("*")


class PreviewAny:
    RETURN_TYPES = ()
    FUNCTION = "show"
    OUTPUT_NODE = True
    CATEGORY = "utils"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"source": (ANY, {})}}

    def show(self, source):
        return {"ui": {"text": [str(source)]}}


class TestRaise:
    """Fails while it runs; what is linked to its input has run before."""

    RETURN_TYPES = (ANY,)
    FUNCTION = "run"
    CATEGORY = "testing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"message": ("STRING", {"default": "asked to fail"})}, "optional": {"value": (ANY, {})}}

    def run(self, message, value=None):
        raise ValueError(message)


class TestSleep:
    """Passes a value on after a time; an interrupt ends it at once."""

    RETURN_TYPES = (ANY,)
    FUNCTION = "run"
    CATEGORY = "testing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seconds": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 3600.0})},
                "optional": {"value": (ANY, {})}}

    def run(self, seconds, value=None):
        comfy.utils.ProgressBar(1).update_absolute(0)
        comfy.model_management.wait_unless_interrupted(seconds)
        return (value,)


NODE_CLASS_MAPPINGS = {"PreviewAny": PreviewAny, "TestRaise": TestRaise, "TestSleep": TestSleep}
NODE_DISPLAY_NAME_MAPPINGS = {"PreviewAny": "Preview Any"}
