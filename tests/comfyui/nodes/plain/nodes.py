import json
import os

import numpy as np
from PIL import Image

import folder_paths

HERE = os.path.dirname(os.path.realpath(__file__))

with open(os.path.join(HERE, "data", "current.json"), encoding="utf-8") as file:
    PALETTE = json.load(file)


class PlainTint:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "tint"
    CATEGORY = "plain"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "colour": (sorted(PALETTE),)}}

    def tint(self, image, colour):
        return ((image * np.array(PALETTE[colour])).astype(np.float32),)


class PlainSaveAnimation:
    """Its files come under "gifs", as those of video nodes do."""

    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True
    CATEGORY = "plain"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",), "filename_prefix": ("STRING", {"default": "plain"})}}

    def save(self, images, filename_prefix):
        folder, filename, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory())
        file = f"{filename}_{counter:05}_.gif"
        frames = [Image.fromarray((image * 255).astype(np.uint8)) for image in images]
        frames[0].save(os.path.join(folder, file), save_all=True, append_images=frames[1:], duration=100)
        return {"ui": {"gifs": [{"filename": file, "subfolder": subfolder, "type": "output", "format": "image/gif"}]}}


NODE_CLASS_MAPPINGS = {"PlainTint": PlainTint, "PlainSaveAnimation": PlainSaveAnimation}
NODE_DISPLAY_NAME_MAPPINGS = {"PlainTint": "Plain Tint", "PlainSaveAnimation": "Plain Save Animation"}
