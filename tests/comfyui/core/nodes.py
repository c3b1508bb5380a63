"""The core's nodes and the loading of everyone else's.

Images are float arrays [batch, height, width, 3] in 0..1; latents are {"samples": [batch, 4, height/8, width/8]}. No
model is computed with: what a sampler makes is a pure function of the bytes of its model, its texts and its seed.
"""

import hashlib
import importlib.util
import json
import logging
import os
import sys
import time
import traceback

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

import comfy.model_management
import comfy.utils
import folder_paths
from comfy.cli_args import args

MAX_RESOLUTION = 16384


def to_pillow(image):
    return Image.fromarray((np.clip(image, 0.0, 1.0) * 255.0).round().astype(np.uint8))


def fingerprint(tensors):
    """SHA-256 over names and bytes of all tensors: reading it reads the whole file."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def noise(shape, *seeds):
    digest = hashlib.sha256(json.dumps(seeds).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big")).random(shape, dtype=np.float32)


class CheckpointLoaderSimple:
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "load_checkpoint"
    CATEGORY = "loaders"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"ckpt_name": (folder_paths.get_filename_list("checkpoints"),)}}

    def load_checkpoint(self, ckpt_name):
        path = folder_paths.get_full_path_or_raise("checkpoints", ckpt_name)
        model = fingerprint(comfy.utils.load_torch_file(path))
        return model, model, model


class VAELoader:
    RETURN_TYPES = ("VAE",)
    FUNCTION = "load_vae"
    CATEGORY = "loaders"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"vae_name": (folder_paths.get_filename_list("vae"),)}}

    def load_vae(self, vae_name):
        return (fingerprint(comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("vae", vae_name))),)


class CLIPTextEncode:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "encode"
    CATEGORY = "conditioning"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"multiline": True}), "clip": ("CLIP",)}}

    def encode(self, clip, text):
        return ([clip, text],)


class EmptyLatentImage:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "generate"
    CATEGORY = "latent"

    @classmethod
    def INPUT_TYPES(cls):
        side = ("INT", {"default": 512, "min": 16, "max": MAX_RESOLUTION, "step": 8})
        return {"required": {"width": side, "height": side,
                             "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096})}}

    def generate(self, width, height, batch_size=1):
        return ({"samples": np.zeros((batch_size, 4, height // 8, width // 8), dtype=np.float32)},)


class KSampler:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "sample"
    CATEGORY = "sampling"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": ("MODEL",),
            "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True}),
            "steps": ("INT", {"default": 20, "min": 1, "max": 10000}),
            "cfg": ("FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1}),
            "sampler_name": (["euler", "euler_ancestral", "dpmpp_2m"],),
            "scheduler": (["normal", "karras", "simple"],),
            "positive": ("CONDITIONING",),
            "negative": ("CONDITIONING",),
            "latent_image": ("LATENT",),
            "denoise": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}),
        }}

    def sample(self, model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise=1.0):
        samples = latent_image["samples"]
        goal = noise(samples.shape, model, seed, cfg, sampler_name, scheduler, positive, negative)
        bar = comfy.utils.ProgressBar(steps)
        for step in range(1, steps + 1):
            current = samples + (goal - samples) * (denoise * step / steps)
            preview = None
            if args.preview_method != "none":
                preview = ("JPEG", to_pillow(np.moveaxis(current[0, :3], 0, -1)), 512)
            bar.update_absolute(step, preview=preview)
        return ({"samples": current},)


class VAEDecode:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "decode"
    CATEGORY = "latent"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT",), "vae": ("VAE",)}}

    def decode(self, vae, samples):
        colours = np.moveaxis(samples["samples"][:, :3], 1, -1)
        tint = 0.8 + 0.2 * noise((3,), vae)
        return ((colours * tint).repeat(8, axis=1).repeat(8, axis=2),)


class LoadImage:
    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "load_image"
    CATEGORY = "image"

    @classmethod
    def INPUT_TYPES(cls):
        directory = folder_paths.get_input_directory()
        files = [name for name in os.listdir(directory) if os.path.isfile(os.path.join(directory, name))]
        files = folder_paths.filter_files_content_types(files, ["image"])
        return {"required": {"image": (sorted(files), {"image_upload": True})}}

    @classmethod
    def IS_CHANGED(cls, image):
        with open(folder_paths.get_annotated_filepath(image), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @classmethod
    def VALIDATE_INPUTS(cls, image):
        return folder_paths.exists_annotated_filepath(image) or f"Invalid image file: {image}"

    def load_image(self, image):
        picture = ImageOps.exif_transpose(Image.open(folder_paths.get_annotated_filepath(image)))
        rgba = np.asarray(picture.convert("RGBA"), dtype=np.float32) / 255.0
        return rgba[None, :, :, :3], 1.0 - rgba[None, :, :, 3]


class EmptyImage:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "generate"
    CATEGORY = "image"

    @classmethod
    def INPUT_TYPES(cls):
        side = ("INT", {"default": 512, "min": 1, "max": MAX_RESOLUTION, "step": 1})
        return {"required": {"width": side, "height": side,
                             "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096}),
                             "color": ("INT", {"default": 0, "min": 0, "max": 0xFFFFFF, "display": "color"})}}

    def generate(self, width, height, batch_size=1, color=0):
        pixel = np.array([color >> 16 & 255, color >> 8 & 255, color & 255], dtype=np.float32) / 255.0
        return (np.broadcast_to(pixel, (batch_size, height, width, 3)),)


class ImageInvert:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "invert"
    CATEGORY = "image"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def invert(self, image):
        return (1.0 - image,)


class SaveImage:
    RETURN_TYPES = ()
    FUNCTION = "save_images"
    OUTPUT_NODE = True
    CATEGORY = "image"
    DESCRIPTION = "Saves the input images to your ComfyUI output directory."
    type = "output"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",), "filename_prefix": ("STRING", {"default": "ComfyUI"})},
                "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}}

    def save_images(self, images, filename_prefix="ComfyUI", prompt=None, extra_pnginfo=None):
        folder, filename, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_directory_by_type(self.type), images.shape[2], images.shape[1])
        saved = []
        for batch, image in enumerate(images):
            text = None
            if not args.disable_metadata:
                text = PngInfo()
                if prompt is not None:
                    text.add_text("prompt", json.dumps(prompt))
                for key, value in (extra_pnginfo or {}).items():
                    text.add_text(key, json.dumps(value))
            file = f"{filename.replace('%batch_num%', str(batch))}_{counter:05}_.png"
            to_pillow(image).save(os.path.join(folder, file), pnginfo=text, compress_level=4)
            saved.append({"filename": file, "subfolder": subfolder, "type": self.type})
            counter += 1
        return {"ui": {"images": saved}}


class PreviewImage(SaveImage):
    FUNCTION = "preview_images"
    DESCRIPTION = ""
    type = "temp"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}, "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}}

    def preview_images(self, images, prompt=None, extra_pnginfo=None):
        return self.save_images(images, f"ComfyUI_temp_{os.urandom(3).hex()}", prompt, extra_pnginfo)


NODE_CLASS_MAPPINGS = {
    node.__name__: node
    for node in (CheckpointLoaderSimple, VAELoader, CLIPTextEncode, EmptyLatentImage, KSampler, VAEDecode, LoadImage,
                 EmptyImage, ImageInvert, SaveImage, PreviewImage)
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "CheckpointLoaderSimple": "Load Checkpoint",
    "VAELoader": "Load VAE",
    "CLIPTextEncode": "CLIP Text Encode (Prompt)",
    "EmptyLatentImage": "Empty Latent Image",
    "VAEDecode": "VAE Decode",
    "LoadImage": "Load Image",
    "ImageInvert": "Invert Image",
    "SaveImage": "Save Image",
    "PreviewImage": "Preview Image",
}
# Module name -> directory, served at /extensions/NAME.
EXTENSION_WEB_DIRS = {}


def load_custom_node(path, ignore=frozenset(), module_parent="custom_nodes"):
    """Imports one node from a file or a directory. A failure is logged with its traceback, and False."""
    name = os.path.splitext(os.path.basename(path))[0] if os.path.isfile(path) else os.path.basename(path)
    if module_parent == "custom_nodes":
        # A full path, so that two nodes of one name in two directories stay apart.
        module_name = os.path.splitext(path)[0] if os.path.isfile(path) else path.replace(".", "_x_")
    else:
        module_name = f"{module_parent}.{name}"
    try:
        source = path if os.path.isfile(path) else os.path.join(path, "__init__.py")
        spec = importlib.util.spec_from_file_location(module_name, source)
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)

        web_directory = getattr(module, "WEB_DIRECTORY", None)
        if web_directory is not None:
            web_directory = os.path.abspath(os.path.join(os.path.dirname(source), web_directory))
            if os.path.isdir(web_directory):
                EXTENSION_WEB_DIRS[name] = web_directory
        mappings = getattr(module, "NODE_CLASS_MAPPINGS", None)
        if mappings is None:
            logging.warning("Skip %s module for custom nodes due to the lack of NODE_CLASS_MAPPINGS or NODES_LIST "
                            "(need one).", path)
            return False
        for key, node in mappings.items():
            if key not in ignore:
                NODE_CLASS_MAPPINGS[key] = node
                node.RELATIVE_PYTHON_MODULE = f"{module_parent}.{name}"
        NODE_DISPLAY_NAME_MAPPINGS.update(getattr(module, "NODE_DISPLAY_NAME_MAPPINGS", None) or {})
        return True
    except Exception as error:
        logging.warning(traceback.format_exc())
        logging.warning("Cannot import %s module for custom nodes: %s", path, error)
        return False


def is_disabled(name):
    return args.disable_all_custom_nodes and name not in args.whitelist_custom_nodes


def init_extra_nodes():
    """comfy_extras first, then every entry of custom_nodes in the order the directory gives them."""
    extras = os.path.join(os.path.dirname(os.path.realpath(__file__)), "comfy_extras")
    failed = [name for name in sorted(os.listdir(extras)) if name.startswith("nodes_") and name.endswith(".py")
              and not load_custom_node(os.path.join(extras, name), module_parent="comfy_extras")]
    init_external_custom_nodes()
    if failed:
        logging.warning("WARNING: some comfy_extras/ nodes did not import correctly. "
                        "This may be because they are missing some dependencies.\n")
        for name in failed:
            logging.warning("IMPORT FAILED: %s", name)
        logging.warning("\nThis issue might be caused by new missing dependencies added the last time you updated "
                        "ComfyUI.")


def init_external_custom_nodes():
    core = frozenset(NODE_CLASS_MAPPINGS)
    times = []
    for directory in folder_paths.get_folder_paths("custom_nodes"):
        for entry in os.listdir(os.path.realpath(directory)):
            path = os.path.join(directory, entry)
            if entry == "__pycache__" or entry.endswith(".disabled"):
                continue
            if os.path.isfile(path) and not entry.endswith(".py"):
                continue
            if is_disabled(entry):
                logging.info("Skipping %s due to disable_all_custom_nodes and whitelist_custom_nodes", entry)
                continue
            start = time.perf_counter()
            success = load_custom_node(path, core)
            times.append((time.perf_counter() - start, path, success))
    log_times("Import", times)


def log_times(what, times):
    if times:
        logging.info("\n%s times for custom nodes:", what)
        for seconds, path, success in sorted(times):
            failed = "" if success else f" ({what.upper()} FAILED)"
            logging.info("%6.1f seconds%s: %s", seconds, failed, path)
        logging.info("")
