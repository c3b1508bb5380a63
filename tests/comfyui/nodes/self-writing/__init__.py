"""What several widespread nodes do on every import: write beside their own code and into the core's web directory."""

import configparser
import os
import shutil

import folder_paths

VERSION = "0.1.0"
HERE = os.path.dirname(os.path.realpath(__file__))
CONFIG = os.path.join(HERE, "config.ini")


def rewrite_config():
    config = configparser.ConfigParser()
    config.read(CONFIG)
    imports = config.getint("default", "imports", fallback=0) + 1
    config["default"] = {"imports": str(imports), "version": VERSION}
    with open(CONFIG, "w", encoding="utf-8") as file:
        config.write(file)
    return imports


def install_web_files():
    target = os.path.join(folder_paths.base_path, "web", "extensions", "self-writing")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(os.path.join(HERE, "js"), target)


def make_styles():
    styles = os.path.join(HERE, "styles")
    os.makedirs(styles, exist_ok=True)
    default = os.path.join(styles, "default.txt")
    if not os.path.exists(default):
        with open(default + ".tmp", "w", encoding="utf-8") as file:
            file.write("plain\n")
        os.rename(default + ".tmp", default)


if not os.access(HERE, os.W_OK):
    raise PermissionError(f"{HERE} cannot be written to")
IMPORTS = rewrite_config()
install_web_files()
make_styles()


class SelfWritingImports:
    """How often this node has been imported from its directory."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "count"
    CATEGORY = "self-writing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def count(self):
        return (IMPORTS,)


NODE_CLASS_MAPPINGS = {"SelfWritingImports": SelfWritingImports}
