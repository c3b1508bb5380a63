"""The command line. An unknown flag ends the program, as it does in ComfyUI."""

import argparse
import os

parser = argparse.ArgumentParser()
add = parser.add_argument

add("--listen", default="127.0.0.1", metavar="IP", nargs="?", const="0.0.0.0,::",
    help="address to listen on, or several with commas; without a value, every address")
add("--port", type=int, default=8188, help="port to listen on")
add("--base-directory", metavar="DIR", help="directory of models, custom_nodes, input, output, temp and user")
add("--extra-model-paths-config", metavar="PATH", nargs="+", action="append",
    help="load one or more extra_model_paths.yaml files")
add("--output-directory", metavar="DIR", help="output directory; overrides --base-directory")
add("--temp-directory", metavar="DIR", help="where temp/ is put; overrides --base-directory")
add("--input-directory", metavar="DIR", help="input directory; overrides --base-directory")
add("--user-directory", metavar="DIR", help="user directory; overrides --base-directory")
add("--front-end-root", metavar="DIR", help="directory the front end is served from")
add("--auto-launch", action="store_true", help="open the browser (this program never does)")
add("--disable-auto-launch", action="store_true", help="do not open the browser")
add("--cpu", action="store_true", help="compute on the CPU (this program always does)")
add("--preview-method", choices=["none", "auto", "latent2rgb", "taesd"], default="none",
    help="how previews are made while a sampler runs")
add("--disable-mmap", action="store_true", help="read model files instead of mapping them")
add("--disable-metadata", action="store_true", help="do not save the workflow in output files")
add("--disable-all-custom-nodes", action="store_true", help="load no custom node")
add("--whitelist-custom-nodes", nargs="+", default=[], metavar="NAME",
    help="custom nodes to load in spite of --disable-all-custom-nodes")
add("--database-url", metavar="URL", help="database, sqlite:///PATH; by default comfyui.db in the user directory")
add("--quick-test-for-ci", action="store_true", help="load everything, then exit")
add("--log-stdout", action="store_true", help="log to stdout instead of stderr")
add("--verbose", default="INFO", const="DEBUG", nargs="?",
    choices=["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], help="log level")

args = parser.parse_args()

for name in ("base_directory", "output_directory", "temp_directory", "input_directory", "user_directory",
             "front_end_root"):
    value = getattr(args, name)
    if value is not None:
        setattr(args, name, os.path.abspath(value))
if args.front_end_root is not None and not os.path.isdir(args.front_end_root):
    parser.error(f"argument --front-end-root: {args.front_end_root} is not a directory")
