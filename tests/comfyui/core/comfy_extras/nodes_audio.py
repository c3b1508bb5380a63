"""Sound: a tone, and its file under the "audio" key of a prompt's outputs."""

import os
import wave

import numpy as np

import folder_paths


class EmptyAudio:
    RETURN_TYPES = ("AUDIO",)
    FUNCTION = "generate"
    CATEGORY = "audio"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"duration": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 600.0}),
                             "sample_rate": ("INT", {"default": 8000, "min": 1, "max": 192000}),
                             "frequency": ("FLOAT", {"default": 440.0, "min": 0.0, "max": 20000.0})}}

    def generate(self, duration, sample_rate, frequency):
        time = np.arange(int(duration * sample_rate)) / sample_rate
        return ({"waveform": np.sin(2 * np.pi * frequency * time).astype(np.float32), "sample_rate": sample_rate},)


class SaveAudio:
    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True
    CATEGORY = "audio"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"audio": ("AUDIO",), "filename_prefix": ("STRING", {"default": "audio/ComfyUI"})}}

    def save(self, audio, filename_prefix="audio/ComfyUI"):
        folder, filename, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory())
        file = f"{filename}_{counter:05}_.wav"
        with wave.open(os.path.join(folder, file), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(audio["sample_rate"])
            out.writeframes((audio["waveform"] * 32767).astype("<i2").tobytes())
        return {"ui": {"audio": [{"filename": file, "subfolder": subfolder, "type": "output"}]}}


NODE_CLASS_MAPPINGS = {"EmptyAudio": EmptyAudio, "SaveAudio": SaveAudio}
NODE_DISPLAY_NAME_MAPPINGS = {"EmptyAudio": "Empty Audio", "SaveAudio": "Save Audio"}
