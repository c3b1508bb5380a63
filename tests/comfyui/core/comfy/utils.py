"""Reading of model files, and progress bars that the websocket clients see."""

import safetensors
import safetensors.numpy

from comfy.cli_args import args
from comfy.model_management import throw_exception_if_processing_interrupted

_progress_hook = None


def load_torch_file(path):
    """The tensors of a .safetensors file by name. The file is mapped, not read, unless --disable-mmap is given."""
    if args.disable_mmap:
        with open(path, "rb") as file:
            return safetensors.numpy.load(file.read())
    with safetensors.safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def set_progress_bar_global_hook(function):
    global _progress_hook
    _progress_hook = function


class ProgressBar:
    def __init__(self, total):
        self.total = total
        self.current = 0

    def update_absolute(self, value, total=None, preview=None):
        """preview is (format, PIL image, greatest side or None)."""
        if total is not None:
            self.total = total
        self.current = min(value, self.total)
        if _progress_hook is not None:
            _progress_hook(self.current, self.total, preview)
        throw_exception_if_processing_interrupted()

    def update(self, value):
        self.update_absolute(self.current + value)
