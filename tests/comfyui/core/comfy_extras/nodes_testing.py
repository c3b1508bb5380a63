"""What a launcher's tests need and no picture does: text, failure, delay, progress, and the end of the program."""

import os
import signal

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


class TestProgress:
    """Passes a value on after so many steps of so many seconds, each one told; an interrupt ends it between two."""

    RETURN_TYPES = (ANY,)
    FUNCTION = "run"
    CATEGORY = "testing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"steps": ("INT", {"default": 10, "min": 1, "max": 10000}),
                             "seconds": ("FLOAT", {"default": 0.1, "min": 0.0, "max": 3600.0})},
                "optional": {"value": (ANY, {})}}

    def run(self, steps, seconds, value=None):
        bar = comfy.utils.ProgressBar(steps)
        for _ in range(steps):
            comfy.model_management.wait_unless_interrupted(seconds)
            bar.update(1)
        return (value,)


class TestDie:
    """Ends the whole program: by itself with a code, or killed, as one that took too much memory is."""

    RETURN_TYPES = (ANY,)
    FUNCTION = "run"
    CATEGORY = "testing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"how": (["kill", "exit"],)}, "optional": {"value": (ANY, {})}}

    def run(self, how, value=None):
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(3)


NODE_CLASS_MAPPINGS = {"PreviewAny": PreviewAny, "TestRaise": TestRaise, "TestSleep": TestSleep,
                       "TestProgress": TestProgress, "TestDie": TestDie}
NODE_DISPLAY_NAME_MAPPINGS = {"PreviewAny": "Preview Any"}
