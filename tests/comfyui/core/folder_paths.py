"""Where everything lies: one base directory, and lists of model files kept while the directories' mtimes stand still."""

import logging
import mimetypes
import os

from comfy.cli_args import args

base_path = args.base_directory or os.path.dirname(os.path.realpath(__file__))
models_dir = os.path.join(base_path, "models")
output_directory = os.path.join(base_path, "output")
temp_directory = os.path.join(base_path, "temp")
input_directory = os.path.join(base_path, "input")
user_directory = os.path.join(base_path, "user")

supported_pt_extensions = {".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"}

# folder name -> ([directories, first wins], {extensions, empty means any})
folder_names_and_paths = {
    name: ([os.path.join(models_dir, name)], supported_pt_extensions)
    for name in ("checkpoints", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision", "controlnet",
                 "embeddings", "upscale_models")
}
folder_names_and_paths["configs"] = ([os.path.join(models_dir, "configs")], {".yaml"})
folder_names_and_paths["custom_nodes"] = ([os.path.join(base_path, "custom_nodes")], set())

_legacy_names = {"unet": "diffusion_models", "clip": "text_encoders"}
_list_cache = {}

os.makedirs(input_directory, exist_ok=True)


def set_output_directory(path):
    global output_directory
    output_directory = path


def set_temp_directory(path):
    global temp_directory
    temp_directory = path


def set_input_directory(path):
    global input_directory
    input_directory = path


def set_user_directory(path):
    global user_directory
    user_directory = path


def get_output_directory():
    return output_directory


def get_temp_directory():
    return temp_directory


def get_input_directory():
    return input_directory


def get_user_directory():
    return user_directory


def get_directory_by_type(kind):
    return {"output": output_directory, "temp": temp_directory, "input": input_directory}.get(kind)


def get_folder_paths(name):
    return folder_names_and_paths[_legacy_names.get(name, name)][0][:]


def add_model_folder_path(name, path, is_default=False):
    name = _legacy_names.get(name, name)
    paths, _ = folder_names_and_paths.setdefault(name, ([], set()))
    if path in paths:
        paths.remove(path)
    paths.insert(0 if is_default else len(paths), path)
    _list_cache.pop(name, None)


def recursive_search(directory):
    """(relative paths of files, {directory: mtime}) below a directory, links followed."""
    files, mtimes = [], {}
    if os.path.isdir(directory):
        mtimes[directory] = os.path.getmtime(directory)
    for parent, directories, names in os.walk(directory, followlinks=True):
        if ".git" in directories:
            directories.remove(".git")
        files.extend(os.path.relpath(os.path.join(parent, name), directory) for name in names)
        for name in directories:
            path = os.path.join(parent, name)
            mtimes[path] = os.path.getmtime(path)
    return files, mtimes


def _is_fresh(mtimes, paths):
    try:
        if any(os.path.getmtime(path) != mtime for path, mtime in mtimes.items()):
            return False
    except OSError:
        return False
    return all(path in mtimes for path in paths if os.path.isdir(path))


def get_filename_list(name):
    name = _legacy_names.get(name, name)
    paths, extensions = folder_names_and_paths[name]
    cached = _list_cache.get(name)
    if cached is None or not _is_fresh(cached[1], paths):
        found, mtimes = set(), {}
        for path in paths:
            files, seen = recursive_search(path)
            found.update(file for file in files if not extensions or os.path.splitext(file)[1].lower() in extensions)
            mtimes.update(seen)
        cached = _list_cache[name] = (sorted(found), mtimes)
    return list(cached[0])


def get_full_path(name, filename):
    # A name that starts with a separator or climbs is brought back under the directory.
    filename = os.path.relpath(os.path.join("/", filename), "/")
    for directory in get_folder_paths(name):
        path = os.path.join(directory, filename)
        if os.path.isfile(path):
            return path
        if os.path.islink(path):
            logging.warning("WARNING path %s exists but doesn't link anywhere, skipping.", path)
    return None


def get_full_path_or_raise(name, filename):
    path = get_full_path(name, filename)
    if path is None:
        raise FileNotFoundError(f"Model in folder '{name}' with filename '{filename}' not found.")
    return path


def annotated_filepath(name):
    """'x.png [output]' -> ('x.png', the output directory); without an annotation the directory is None."""
    for kind in ("output", "input", "temp"):
        if name.endswith(f"[{kind}]"):
            return name[: -len(kind) - 3], get_directory_by_type(kind)
    return name, None


def get_annotated_filepath(name):
    name, directory = annotated_filepath(name)
    return os.path.join(directory or input_directory, name)


def exists_annotated_filepath(name):
    """A file whose real path leaves its directory does not exist for a prompt."""
    name, directory = annotated_filepath(name)
    directory = directory or input_directory
    path = os.path.join(directory, name)
    return is_inside(directory, path) and os.path.exists(path)


def is_inside(directory, path):
    directory = os.path.realpath(directory)
    return os.path.commonpath((directory, os.path.realpath(path))) == directory


def filter_files_content_types(files, kinds):
    return [file for file in files if (mimetypes.guess_type(file)[0] or "").split("/")[0] in kinds]


def get_save_image_path(prefix, directory, width=0, height=0):
    """(folder, file name, next counter, subfolder, prefix) for names like PREFIX_00001_.png; makes the folder."""
    prefix = prefix.replace("%width%", str(width)).replace("%height%", str(height))
    subfolder, filename = os.path.split(os.path.normpath(prefix))
    folder = os.path.join(directory, subfolder)
    if os.path.commonpath((os.path.abspath(directory), os.path.abspath(folder))) != os.path.abspath(directory):
        raise Exception("**** ERROR: Saving image outside the output folder is not allowed."
                        f"\n full_output_folder: {os.path.abspath(folder)}\n output_dir: {directory}")
    os.makedirs(folder, exist_ok=True)
    counter = 0
    for name in os.listdir(folder):
        if name[: len(filename) + 1].lower() == filename.lower() + "_":
            digits = name[len(filename) + 1:].split("_")[0]
            if digits.isdecimal():
                counter = max(counter, int(digits))
    return folder, filename, counter + 1, subfolder, prefix
