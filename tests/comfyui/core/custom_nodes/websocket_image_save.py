"""Sends images to the client over the websocket and writes no file. A node that is one file."""

import time

import comfy.utils
from nodes import to_pillow


class SaveImageWebsocket:
    RETURN_TYPES = ()
    FUNCTION = "send"
    OUTPUT_NODE = True
    CATEGORY = "api/image"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}}

    @classmethod
    def IS_CHANGED(cls, **_):
        return time.time()

    def send(self, images):
        bar = comfy.utils.ProgressBar(len(images))
        for step, image in enumerate(images):
            bar.update_absolute(step, preview=("PNG", to_pillow(image), None))
        return {}


NODE_CLASS_MAPPINGS = {"SaveImageWebsocket": SaveImageWebsocket}
