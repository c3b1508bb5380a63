"""The HTTP routes and the websocket. Every route is there a second time under /api."""

import asyncio
import glob
import hashlib
import io
import json
import logging
import mimetypes
import os
import struct
import sys
import uuid

import aiohttp
from aiohttp import web

import comfy.model_management
import execution
import folder_paths
import nodes
from comfy.cli_args import args
from comfyui_version import __version__
from validation import validate_prompt

PREVIEW_IMAGE = 1
IMAGE_FORMATS = {"JPEG": 1, "PNG": 2}


def web_root():
    return args.front_end_root or os.path.join(os.path.dirname(os.path.realpath(__file__)), "web")


class PromptServer:
    instance = None

    def __init__(self, loop):
        PromptServer.instance = self
        self.loop = loop
        self.messages = asyncio.Queue()
        self.sockets = {}
        self.number = 0
        # Of the prompt that runs: who asked for it, and the node it is at.
        self.client_id = None
        self.last_node_id = None
        self.prompt_queue = execution.PromptQueue(self)
        self.app = web.Application(client_max_size=100 * 1024 * 1024)
        # Custom nodes add their own routes here while they are imported.
        self.routes = web.RouteTableDef()
        self._define_routes()

    def add_routes(self):
        api = web.RouteTableDef()
        for route in self.routes:
            api.route(route.method, "/api" + route.path)(route.handler)
        self.app.add_routes(api)
        self.app.add_routes(self.routes)
        for name, directory in nodes.EXTENSION_WEB_DIRS.items():
            self.app.add_routes([web.static("/extensions/" + name, directory)])
        self.app.add_routes([web.static("/", web_root())])

    async def start(self, addresses, port):
        runner = web.AppRunner(self.app, access_log=None)
        await runner.setup()
        for address in addresses:
            await web.TCPSite(runner, address, port).start()
        logging.info("Starting server\n")
        for address in addresses:
            shown = f"[{address}]" if ":" in address else address
            logging.info("To see the GUI go to: http://%s:%s", shown, port)

    async def publish(self):
        while True:
            event, data, sid = await self.messages.get()
            sockets = list(self.sockets.values()) if sid is None else [s for s in [self.sockets.get(sid)] if s]
            for socket in sockets:
                try:
                    if isinstance(event, int):
                        await socket.send_bytes(struct.pack(">I", event) + data)
                    else:
                        await socket.send_json({"type": event, "data": data})
                except (aiohttp.ClientError, ConnectionError) as error:
                    logging.warning("send error: %s", error)

    def send_sync(self, event, data, sid=None):
        """From any thread; an integer event goes as a binary message, no sid to everyone."""
        self.loop.call_soon_threadsafe(self.messages.put_nowait, (event, data, sid))

    def queue_updated(self):
        self.send_sync("status", self.status())

    def status(self):
        return {"status": {"exec_info": {"queue_remaining": self.prompt_queue.get_tasks_remaining()}}}

    def send_preview(self, preview, sid):
        kind, image, side = preview
        if side is not None:
            image = image.copy()
            image.thumbnail((side, side))
        out = io.BytesIO()
        image.save(out, format=kind, quality=95, compress_level=1)
        self.send_sync(PREVIEW_IMAGE, struct.pack(">I", IMAGE_FORMATS[kind]) + out.getvalue(), sid)

    def _define_routes(self):
        routes = self.routes
        routes.get("/ws")(self._websocket)
        routes.get("/prompt")(self._get_status)
        routes.post("/prompt")(self._post_prompt)
        routes.get("/queue")(self._get_queue)
        routes.post("/queue")(self._post_queue)
        routes.get("/history")(self._get_history)
        routes.get("/history/{prompt_id}")(self._get_history)
        routes.post("/history")(self._post_history)
        routes.post("/interrupt")(self._interrupt)
        routes.post("/free")(self._free)
        routes.get("/view")(self._view)
        routes.post("/upload/image")(self._upload_image)
        routes.get("/")(_index)
        routes.get("/extensions")(_extensions)
        routes.get("/embeddings")(_embeddings)
        routes.get("/models")(_models)
        routes.get("/models/{folder}")(_models_in)
        routes.get("/system_stats")(_system_stats)
        routes.get("/object_info")(_object_info)
        routes.get("/object_info/{node_class}")(_object_info)
        routes.get("/settings")(_get_settings)
        routes.post("/settings")(_post_settings)

    async def _websocket(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        sid = request.rel_url.query.get("clientId") or uuid.uuid4().hex
        self.sockets[sid] = socket
        try:
            await socket.send_json({"type": "status", "data": {**self.status(), "sid": sid}})
            if self.client_id == sid and self.last_node_id is not None:
                await socket.send_json({"type": "executing", "data": {"node": self.last_node_id}})
            async for message in socket:
                if message.type == aiohttp.WSMsgType.ERROR:
                    logging.warning("ws connection closed with exception %s", socket.exception())
        finally:
            if self.sockets.get(sid) is socket:
                del self.sockets[sid]
        return socket

    async def _get_status(self, _):
        return web.json_response(self.status()["status"])

    async def _post_prompt(self, request):
        logging.info("got prompt")
        body = await request.json()
        if "number" in body:
            number = float(body["number"])
        else:
            number = -self.number if body.get("front") else self.number
            self.number += 1
        if "prompt" not in body:
            error = {"type": "no_prompt", "message": "No prompt provided", "details": "No prompt provided",
                     "extra_info": {}}
            return web.json_response({"error": error, "node_errors": {}}, status=400)
        prompt = body["prompt"]
        valid, error, outputs, node_errors = validate_prompt(prompt)
        if not valid:
            logging.warning("invalid prompt: %s", error)
            return web.json_response({"error": error, "node_errors": node_errors}, status=400)
        extra_data = body.get("extra_data", {})
        if "client_id" in body:
            extra_data["client_id"] = body["client_id"]
        prompt_id = str(body.get("prompt_id", uuid.uuid4()))
        self.prompt_queue.put((number, prompt_id, prompt, extra_data, outputs))
        return web.json_response({"prompt_id": prompt_id, "number": number, "node_errors": node_errors})

    async def _get_queue(self, _):
        running, pending = self.prompt_queue.get_current_queue()
        return web.json_response({"queue_running": running, "queue_pending": pending})

    async def _post_queue(self, request):
        body = await request.json()
        if body.get("clear"):
            self.prompt_queue.wipe_queue()
        for prompt_id in body.get("delete", []):
            self.prompt_queue.delete_queue_item(prompt_id)
        return web.Response(status=200)

    async def _get_history(self, request):
        prompt_id = request.match_info.get("prompt_id")
        max_items = request.rel_url.query.get("max_items")
        return web.json_response(self.prompt_queue.get_history(prompt_id, int(max_items) if max_items else None))

    async def _post_history(self, request):
        body = await request.json()
        if body.get("clear"):
            self.prompt_queue.wipe_history()
        for prompt_id in body.get("delete", []):
            self.prompt_queue.delete_history_item(prompt_id)
        return web.Response(status=200)

    async def _interrupt(self, request):
        """With a prompt_id, only when that prompt runs."""
        text = await request.text()
        prompt_id = json.loads(text).get("prompt_id") if text else None
        if prompt_id is None or self.prompt_queue.is_running(prompt_id):
            comfy.model_management.interrupt_current_processing()
        return web.Response(status=200)

    async def _free(self, request):
        body = await request.json()
        for flag in ("unload_models", "free_memory"):
            if body.get(flag):
                self.prompt_queue.set_flag(flag, True)
        return web.Response(status=200)

    async def _view(self, request):
        query = request.rel_url.query
        filename, directory = folder_paths.annotated_filepath(query.get("filename", ""))
        if not filename or filename[0] == "/" or ".." in filename:
            return web.Response(status=400)
        directory = directory or folder_paths.get_directory_by_type(query.get("type", "output"))
        if directory is None:
            return web.Response(status=400)
        folder = os.path.join(directory, query.get("subfolder", ""))
        if not _stays_in(directory, folder):
            return web.Response(status=403)
        path = os.path.join(folder, os.path.basename(filename))
        if not os.path.isfile(path):
            return web.Response(status=404)
        return web.FileResponse(path, headers={
            "Content-Disposition": f'filename="{os.path.basename(filename)}"',
            "Content-Type": mimetypes.guess_type(filename)[0] or "application/octet-stream"})

    async def _upload_image(self, request):
        post = await request.post()
        image = post.get("image")
        kind = post.get("type", "input")
        directory = folder_paths.get_directory_by_type(kind)
        if not isinstance(image, web.FileField) or not image.filename or directory is None:
            return web.Response(status=400)
        subfolder = post.get("subfolder", "")
        folder = os.path.join(directory, os.path.normpath(subfolder))
        path = os.path.abspath(os.path.join(folder, image.filename))
        if not _stays_in(directory, path):
            return web.Response(status=400)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        data = image.file.read()
        if post.get("overwrite") not in ("true", "1"):
            path = _free_name(path, data)
        with open(path, "wb") as file:
            file.write(data)
        return web.json_response({"name": os.path.basename(path), "subfolder": subfolder, "type": kind})


def _stays_in(directory, path):
    directory = os.path.abspath(directory)
    return os.path.commonpath((directory, os.path.abspath(path))) == directory


def _free_name(path, data):
    """The path itself, one that holds the same bytes, or `NAME (1).EXT` and so on."""
    stem, extension = os.path.splitext(path)
    digest = hashlib.sha256(data).digest()
    number = 1
    while os.path.exists(path):
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").digest() == digest:
                break
        path = f"{stem} ({number}){extension}"
        number += 1
    return path


async def _index(_):
    return web.FileResponse(os.path.join(web_root(), "index.html"), headers={"Cache-Control": "no-cache"})


async def _extensions(_):
    root = os.path.join(web_root(), "extensions")
    found = ["/extensions/" + name for name in sorted(glob.glob("**/*.js", root_dir=root, recursive=True))]
    for name, directory in nodes.EXTENSION_WEB_DIRS.items():
        found += [f"/extensions/{name}/{file}" for file in sorted(glob.glob("**/*.js", root_dir=directory,
                                                                           recursive=True))]
    return web.json_response(found)


async def _embeddings(_):
    return web.json_response([os.path.splitext(name)[0] for name in folder_paths.get_filename_list("embeddings")])


async def _models(_):
    return web.json_response([name for name in folder_paths.folder_names_and_paths
                              if name not in ("configs", "custom_nodes")])


async def _models_in(request):
    folder = request.match_info["folder"]
    if folder not in folder_paths.folder_names_and_paths:
        return web.Response(status=404)
    return web.json_response(folder_paths.get_filename_list(folder))


async def _system_stats(_):
    total, free = comfy.model_management.memory()
    return web.json_response({
        "system": {"os": os.name, "ram_total": total, "ram_free": free, "comfyui_version": __version__,
                   "required_frontend_version": "", "python_version": sys.version, "pytorch_version": "none",
                   "embedded_python": False, "argv": sys.argv},
        "devices": [{"name": "cpu", "type": "cpu", "index": None, "vram_total": total, "vram_free": free,
                     "torch_vram_total": total, "torch_vram_free": free}]})


def _node_info(name):
    node = nodes.NODE_CLASS_MAPPINGS[name]
    types = node.INPUT_TYPES()
    returned = list(node.RETURN_TYPES)
    return {
        "input": types, "input_order": {section: list(inputs) for section, inputs in types.items()},
        "output": returned, "output_is_list": list(getattr(node, "OUTPUT_IS_LIST", [False] * len(returned))),
        "output_name": list(getattr(node, "RETURN_NAMES", returned)), "name": name,
        "display_name": nodes.NODE_DISPLAY_NAME_MAPPINGS.get(name, name),
        "description": getattr(node, "DESCRIPTION", ""),
        "python_module": getattr(node, "RELATIVE_PYTHON_MODULE", "nodes"),
        "category": getattr(node, "CATEGORY", "sd"), "output_node": bool(getattr(node, "OUTPUT_NODE", False)),
    }


async def _object_info(request):
    asked = request.match_info.get("node_class")
    names = nodes.NODE_CLASS_MAPPINGS if asked is None else [asked] if asked in nodes.NODE_CLASS_MAPPINGS else []
    return web.json_response({name: _node_info(name) for name in names})


def _settings_path():
    return os.path.join(folder_paths.get_user_directory(), "default", "comfy.settings.json")


def _read_settings():
    try:
        with open(_settings_path(), encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


async def _get_settings(_):
    return web.json_response(_read_settings())


async def _post_settings(request):
    settings = {**_read_settings(), **await request.json()}
    os.makedirs(os.path.dirname(_settings_path()), exist_ok=True)
    with open(_settings_path(), "w", encoding="utf-8") as file:
        json.dump(settings, file, indent=4)
    return web.Response(status=200)
