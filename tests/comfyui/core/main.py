"""Starts a ComfyUI: directories, custom nodes, prompt worker, server."""

import asyncio
import importlib.util
import logging
import os
import shutil
import sys
import threading
import time

from comfy.cli_args import args

logging.basicConfig(level=args.verbose, format="%(message)s", stream=sys.stdout if args.log_stdout else sys.stderr)

import folder_paths


def apply_custom_paths():
    default = os.path.join(os.path.dirname(os.path.realpath(__file__)), "extra_model_paths.yaml")
    configs = [path for paths in args.extra_model_paths_config or [] for path in paths]
    for path in ([default] if os.path.isfile(default) else []) + configs:
        load_extra_model_paths(path)
    if args.output_directory:
        logging.info("Setting output directory to: %s", args.output_directory)
        folder_paths.set_output_directory(args.output_directory)
    if args.input_directory:
        logging.info("Setting input directory to: %s", args.input_directory)
        folder_paths.set_input_directory(args.input_directory)
    if args.user_directory:
        logging.info("Setting user directory to: %s", args.user_directory)
        folder_paths.set_user_directory(args.user_directory)
    if args.temp_directory:
        logging.info("Setting temp directory to: %s", os.path.join(args.temp_directory, "temp"))
        folder_paths.set_temp_directory(os.path.join(args.temp_directory, "temp"))


def load_extra_model_paths(path):
    import yaml

    with open(path, encoding="utf-8") as file:
        config = yaml.safe_load(file) or {}
    here = os.path.dirname(os.path.abspath(path))
    for section in filter(None, config.values()):
        section = dict(section)
        base = os.path.expanduser(os.path.expandvars(section.pop("base_path", "")))
        is_default = section.pop("is_default", False)
        for folder, lines in section.items():
            for line in filter(None, lines.split("\n")):
                full = os.path.normpath(os.path.join(here, base, line))
                logging.info("Adding extra search path %s %s", folder, full)
                folder_paths.add_model_folder_path(folder, full, is_default)


def execute_prestartup_scripts():
    """Before anything else is imported, so that a node can still set what imports see."""
    if args.disable_all_custom_nodes and not args.whitelist_custom_nodes:
        return
    times = []
    for directory in folder_paths.get_folder_paths("custom_nodes"):
        for entry in os.listdir(directory):
            path = os.path.join(directory, entry)
            script = os.path.join(path, "prestartup_script.py")
            if entry == "__pycache__" or entry.endswith(".disabled") or not os.path.exists(script):
                continue
            if args.disable_all_custom_nodes and entry not in args.whitelist_custom_nodes:
                continue
            start = time.perf_counter()
            times.append((path, execute_script(script), time.perf_counter() - start))
    if times:
        logging.info("\nPrestartup times for custom nodes:")
        for path, success, seconds in sorted(times, key=lambda entry: entry[2]):
            logging.info("%6.1f seconds%s: %s", seconds, "" if success else " (PRESTARTUP FAILED)", path)
        logging.info("")


def execute_script(path):
    try:
        spec = importlib.util.spec_from_file_location(os.path.splitext(path)[0], path)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        return True
    except Exception as error:
        logging.error("Failed to execute startup-script: %s / %s", path, error)
        return False


apply_custom_paths()
execute_prestartup_scripts()

import comfy.utils
import execution
import nodes
import server
from app.database import record_run, setup_database


def cleanup_temp():
    shutil.rmtree(folder_paths.get_temp_directory(), ignore_errors=True)


def prompt_worker(prompt_server):
    queue = prompt_server.prompt_queue
    executor = execution.PromptExecutor(prompt_server)

    def report(value, total, preview):
        data = {"value": value, "max": total, "prompt_id": executor.prompt_id, "node": prompt_server.last_node_id}
        prompt_server.send_sync("progress", data, prompt_server.client_id)
        if preview is not None:
            prompt_server.send_preview(preview, prompt_server.client_id)

    comfy.utils.set_progress_bar_global_hook(report)
    while True:
        taken = queue.get(timeout=1000)
        flags = queue.take_flags()
        if flags.get("free_memory") or flags.get("unload_models"):
            executor.reset()
        if taken is None:
            continue
        (_, prompt_id, prompt, extra_data, outputs), task = taken
        start = time.perf_counter()
        executor.execute(prompt, prompt_id, extra_data, outputs)
        record_run(prompt_id, "success" if executor.success else "error")
        queue.task_done(task, executor)
        if prompt_server.client_id is not None:
            prompt_server.send_sync("executing", {"node": None, "prompt_id": prompt_id}, prompt_server.client_id)
        logging.info("Prompt executed in %.2f seconds", time.perf_counter() - start)


async def serve(prompt_server):
    await prompt_server.start(args.listen.split(","), args.port)
    await prompt_server.publish()


def main():
    cleanup_temp()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    prompt_server = server.PromptServer(loop)
    nodes.init_extra_nodes()
    setup_database()
    os.makedirs(os.path.join(folder_paths.get_user_directory(), "default"), exist_ok=True)
    prompt_server.add_routes()
    threading.Thread(target=prompt_worker, daemon=True, args=(prompt_server,)).start()
    if args.quick_test_for_ci:
        sys.exit(0)
    os.makedirs(folder_paths.get_temp_directory(), exist_ok=True)
    try:
        loop.run_until_complete(serve(prompt_server))
    except KeyboardInterrupt:
        logging.info("\nStopped server")
    finally:
        cleanup_temp()


if __name__ == "__main__":
    main()
