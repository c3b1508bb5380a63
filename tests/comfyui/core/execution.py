"""Execution of prompts, one at a time: the queue, the history, and the results kept from one prompt for the next."""

import copy
import hashlib
import heapq
import json
import logging
import threading
import time
import traceback
import uuid

import comfy.model_management
import nodes
from validation import is_link

MAXIMUM_HISTORY_SIZE = 10000


class NodeFailure(Exception):
    def __init__(self, node_id, error):
        super().__init__(node_id)
        self.node_id = node_id
        self.error = error


class PromptExecutor:
    def __init__(self, server):
        self.server = server
        # Signature -> (outputs, ui) of the nodes of the last prompt.
        self.cache = {}

    def reset(self):
        self.cache = {}

    def execute(self, prompt, prompt_id, extra_data, outputs):
        """Runs the outputs of one prompt and what they need; leaves success, messages and ui behind."""
        self.prompt, self.prompt_id, self.extra_data = prompt, prompt_id, extra_data
        self.success, self.messages, self.ui, self.meta = True, [], {}, {}
        self.results, self.signatures, self.executed = {}, {}, []
        self.server.client_id = extra_data.get("client_id")
        comfy.model_management.interrupt_current_processing(False)

        self._message("execution_start", {"prompt_id": prompt_id}, broadcast=False)
        needed = self._needed(outputs)
        try:
            for node_id in needed:
                self._sign(node_id)
        except NodeFailure as failure:
            self._message("execution_cached", {"nodes": [], "prompt_id": prompt_id}, broadcast=False)
            self._fail(failure)
            return
        kept = {node_id: self.cache[self.signatures[node_id]]
                for node_id in needed if self.signatures[node_id] in self.cache}
        self._message("execution_cached", {"nodes": list(kept), "prompt_id": prompt_id}, broadcast=False)
        try:
            for node_id in needed:
                if node_id in kept:
                    self.results[node_id], ui = kept[node_id]
                    if ui is not None:
                        self._show(node_id, ui)
                else:
                    self._run(node_id)
            self._message("execution_success", {"prompt_id": prompt_id}, broadcast=False)
        except NodeFailure as failure:
            self._fail(failure)
        signatures = set(self.signatures.values())
        self.cache = {key: value for key, value in self.cache.items() if key in signatures}
        self.server.last_node_id = None

    def _message(self, event, data, broadcast):
        data = {**data, "timestamp": int(time.time() * 1000)}
        self.messages.append((event, data))
        if self.server.client_id is not None or broadcast:
            self.server.send_sync(event, data, None if broadcast else self.server.client_id)

    def _needed(self, outputs):
        """The outputs and all that they reach, what is linked before what links to it."""
        order, done = [], set()
        for output in outputs:
            stack = [(output, False)]
            while stack:
                node_id, ready = stack.pop()
                if ready:
                    order.append(node_id)
                elif node_id not in done:
                    done.add(node_id)
                    stack.append((node_id, True))
                    links = [value[0] for value in self.prompt[node_id]["inputs"].values() if is_link(value)]
                    stack.extend((link, False) for link in reversed(links))
        return order

    def _sign(self, node_id):
        node = self.prompt[node_id]
        node_class = nodes.NODE_CLASS_MAPPINGS[node["class_type"]]
        try:
            inputs = {name: [self.signatures[value[0]], value[1]] if is_link(value) else value
                      for name, value in node["inputs"].items()}
            changed = None
            if hasattr(node_class, "IS_CHANGED"):
                own = {name: value for name, value in node["inputs"].items() if not is_link(value)}
                changed = node_class.IS_CHANGED(**own)
                if changed != changed:
                    changed = uuid.uuid4().hex
            key = [node["class_type"], sorted(inputs.items()), changed]
            if "UNIQUE_ID" in node_class.INPUT_TYPES().get("hidden", {}).values():
                key.append(node_id)
            self.signatures[node_id] = hashlib.sha256(json.dumps(key, default=str).encode()).hexdigest()
        except Exception as error:
            raise NodeFailure(node_id, error) from error

    def _run(self, node_id):
        node = self.prompt[node_id]
        node_class = nodes.NODE_CLASS_MAPPINGS[node["class_type"]]
        self.server.last_node_id = node_id
        if self.server.client_id is not None:
            self.server.send_sync("executing", {"node": node_id, "display_node": node_id, "prompt_id": self.prompt_id},
                                  self.server.client_id)
        try:
            comfy.model_management.throw_exception_if_processing_interrupted()
            returned = getattr(node_class(), node_class.FUNCTION)(**self._inputs(node_id, node_class))
        except Exception as error:
            raise NodeFailure(node_id, error) from error
        ui, outputs = None, returned
        if isinstance(returned, dict):
            ui, outputs = returned.get("ui"), returned.get("result", ())
        self.results[node_id] = outputs
        self.cache[self.signatures[node_id]] = (outputs, ui)
        if ui is not None:
            self._show(node_id, ui)
        self.executed.append(node_id)

    def _inputs(self, node_id, node_class):
        types = node_class.INPUT_TYPES()
        known = {**types.get("required", {}), **types.get("optional", {})}
        given = {name: self.results[value[0]][value[1]] if is_link(value) else value
                 for name, value in self.prompt[node_id]["inputs"].items() if name in known}
        hidden = {"PROMPT": self.prompt, "EXTRA_PNGINFO": self.extra_data.get("extra_pnginfo"), "UNIQUE_ID": node_id}
        given.update((name, hidden[kind]) for name, kind in types.get("hidden", {}).items() if kind in hidden)
        return given

    def _show(self, node_id, ui):
        self.ui[node_id] = ui
        self.meta[node_id] = {"node_id": node_id, "display_node": node_id, "parent_node": None, "real_node_id": node_id}
        if self.server.client_id is not None:
            data = {"node": node_id, "display_node": node_id, "output": ui, "prompt_id": self.prompt_id}
            self.server.send_sync("executed", data, self.server.client_id)

    def _fail(self, failure):
        self.success = False
        node_id, error = failure.node_id, failure.error
        common = {"prompt_id": self.prompt_id, "node_id": node_id, "node_type": self.prompt[node_id]["class_type"],
                  "executed": list(self.executed)}
        if isinstance(error, comfy.model_management.InterruptProcessingException):
            logging.info("Processing interrupted")
            self._message("execution_interrupted", common, broadcast=True)
            return
        logging.error("!!! Exception during processing !!! %s", error)
        logging.error("".join(traceback.format_exception(error)))
        kind = type(error)
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        inputs = {key: [str(value)] for key, value in self.prompt[node_id]["inputs"].items()}
        self._message("execution_error", {
            **common, "exception_message": f"{error}\n", "exception_type": name,
            "traceback": traceback.format_tb(error.__traceback__), "current_inputs": inputs,
            "current_outputs": list(self.results)}, broadcast=False)


class PromptQueue:
    """Items are (number, prompt_id, prompt, extra_data, outputs), the lowest number first."""

    def __init__(self, server):
        self.server = server
        self.condition = threading.Condition()
        self.pending, self.running, self.history, self.flags = [], {}, {}, {}
        self.task_counter = 0

    def put(self, item):
        with self.condition:
            heapq.heappush(self.pending, item)
            self.server.queue_updated()
            self.condition.notify()

    def get(self, timeout):
        with self.condition:
            if not self.pending:
                self.condition.wait(timeout)
            if not self.pending:
                return None
            item = heapq.heappop(self.pending)
            self.task_counter += 1
            self.running[self.task_counter] = item
            self.server.queue_updated()
            return item, self.task_counter

    def task_done(self, task, executor):
        with self.condition:
            item = self.running.pop(task)
            while len(self.history) >= MAXIMUM_HISTORY_SIZE:
                self.history.pop(next(iter(self.history)))
            status = {"status_str": "success" if executor.success else "error", "completed": executor.success,
                      "messages": executor.messages}
            self.history[item[1]] = {"prompt": item, "outputs": executor.ui, "status": status, "meta": executor.meta}
            self.server.queue_updated()

    def get_current_queue(self):
        with self.condition:
            return copy.deepcopy(list(self.running.values())), copy.deepcopy(sorted(self.pending))

    def get_tasks_remaining(self):
        with self.condition:
            return len(self.pending) + len(self.running)

    def is_running(self, prompt_id):
        with self.condition:
            return any(item[1] == prompt_id for item in self.running.values())

    def wipe_queue(self):
        with self.condition:
            self.pending = []
            self.server.queue_updated()

    def delete_queue_item(self, prompt_id):
        with self.condition:
            self.pending = [item for item in self.pending if item[1] != prompt_id]
            heapq.heapify(self.pending)
            self.server.queue_updated()

    def get_history(self, prompt_id=None, max_items=None):
        with self.condition:
            if prompt_id is not None:
                found = {prompt_id: self.history[prompt_id]} if prompt_id in self.history else {}
            else:
                found = dict(list(self.history.items())[-max_items if max_items else None:])
            return copy.deepcopy(found)

    def wipe_history(self):
        with self.condition:
            self.history = {}

    def delete_history_item(self, prompt_id):
        with self.condition:
            self.history.pop(prompt_id, None)

    def set_flag(self, name, value):
        with self.condition:
            self.flags[name] = value
            self.condition.notify()

    def take_flags(self):
        with self.condition:
            flags, self.flags = self.flags, {}
            return flags
