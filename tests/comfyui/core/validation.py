"""What makes a prompt acceptable. An output that fails is dropped; a prompt fails when no output is left."""

import logging
import traceback

import nodes


def is_link(value):
    """[node id, output number] where a value could stand."""
    return (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
            and isinstance(value[1], int) and not isinstance(value[1], bool))


def problem(kind, message, details="", **extra_info):
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def validate_prompt(prompt):
    """(valid, error or None, [outputs to run], {node id: its errors})."""
    outputs = []
    for node_id, node in prompt.items():
        if not isinstance(node, dict) or "class_type" not in node:
            return False, problem("invalid_prompt", "Cannot execute because a node is missing the class_type property.",
                                  f"Node ID '#{node_id}'"), [], {}
        class_type = node["class_type"]
        if class_type not in nodes.NODE_CLASS_MAPPINGS:
            return False, problem("invalid_prompt", f"Cannot execute because node {class_type} does not exist.",
                                  f"Node ID '#{node_id}'"), [], {}
        node.setdefault("inputs", {})
        if getattr(nodes.NODE_CLASS_MAPPINGS[class_type], "OUTPUT_NODE", False):
            outputs.append(node_id)
    if not outputs:
        return False, problem("prompt_no_outputs", "Prompt has no outputs"), [], {}

    validator = _Validator(prompt)
    good, node_errors, lines = [], {}, []
    for output in outputs:
        if validator.is_valid(output, ()):
            good.append(output)
            continue
        logging.error("Failed to validate prompt for output %s:", output)
        reached = validator.reached(output)
        for node_id, errors in validator.errors.items():
            if errors and node_id in reached:
                entry = node_errors.setdefault(
                    node_id, {"errors": errors, "dependent_outputs": [], "class_type": prompt[node_id]["class_type"]})
                entry["dependent_outputs"].append(output)
                for error in errors:
                    lines.append(f"{error['message']}: {error['details']}")
                    logging.error("* %s %s:\n  - %s", entry["class_type"], node_id, lines[-1])
        logging.error("Output will be ignored")
    if not good:
        return False, problem("prompt_outputs_failed_validation", "Prompt outputs failed validation",
                              "\n".join(lines)), [], node_errors
    return True, None, good, node_errors


class _Validator:
    def __init__(self, prompt):
        self.prompt = prompt
        self.errors = {}
        self.valid = {}

    def reached(self, node_id):
        found, stack = set(), [node_id]
        while stack:
            node_id = stack.pop()
            if node_id in self.prompt and node_id not in found:
                found.add(node_id)
                stack.extend(value[0] for value in self.prompt[node_id]["inputs"].values() if is_link(value))
        return found

    def is_valid(self, node_id, path):
        if node_id in self.valid:
            return self.valid[node_id]
        errors = self.errors[node_id] = []
        try:
            linked = self._check(node_id, (*path, node_id), errors)
        except Exception as error:
            linked = False
            errors.append(problem("exception_during_validation", "Exception when validating node", str(error),
                                  exception_type=type(error).__name__,
                                  traceback=traceback.format_tb(error.__traceback__)))
        self.valid[node_id] = linked and not errors
        return self.valid[node_id]

    def _check(self, node_id, path, errors):
        """Adds the node's own errors; False when something linked to is not valid."""
        inputs = self.prompt[node_id]["inputs"]
        node_class = nodes.NODE_CLASS_MAPPINGS[self.prompt[node_id]["class_type"]]
        types = node_class.INPUT_TYPES()
        validate = getattr(node_class, "VALIDATE_INPUTS", None)
        checked_by_node = validate.__code__.co_varnames[: validate.__code__.co_argcount] if validate else ()
        linked = True
        for section in ("required", "optional"):
            for name, config in types.get(section, {}).items():
                if name not in inputs:
                    if section == "required":
                        errors.append(problem("required_input_missing", "Required input is missing", name,
                                              input_name=name))
                elif isinstance(inputs[name], list):
                    linked &= self._check_link(name, config, inputs[name], path, errors)
                else:
                    error = _check_value(name, config, inputs, name in checked_by_node)
                    if error is not None:
                        errors.append(error)
        if validate and not errors:
            own = {name: inputs[name] for name in checked_by_node[1:] if name in inputs and not is_link(inputs[name])}
            verdict = validate(**own)
            if verdict is not True:
                details = "" if verdict is False else f" - {verdict}"
                errors.append(problem("custom_validation_failed", "Custom validation failed for node",
                                      f"{', '.join(own)}{details}", input_name=next(iter(own), None)))
        return linked

    def _check_link(self, name, config, value, path, errors):
        if not is_link(value):
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            errors.append(problem("bad_linked_input", message, name, input_name=name, input_config=config,
                                  received_value=value))
            return True
        source, slot = value
        if source in path:
            raise RecursionError(f"Dependency cycle through node {source}")
        returned = nodes.NODE_CLASS_MAPPINGS[self.prompt[source]["class_type"]].RETURN_TYPES[slot]
        wanted = config[0]
        # By "!=": a type that matches everything overrides "__ne__".
        if not isinstance(wanted, list) and returned != wanted:
            errors.append(problem("return_type_mismatch", "Return type mismatch between linked nodes",
                                  f"{name}, received_type({returned}) mismatch input_type({wanted})", input_name=name,
                                  input_config=config, received_type=returned, linked_node=value))
            return True
        return self.is_valid(source, path)


def _check_value(name, config, inputs, checked_by_node):
    kind, options = config[0], config[1] if len(config) > 1 else {}
    value = inputs[name]
    convert = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}.get(kind) if isinstance(kind, str) else None
    if convert is not None:
        try:
            value = inputs[name] = convert(value)
        except (TypeError, ValueError) as error:
            return problem("invalid_input_type", f"Failed to convert an input value to a {kind} value",
                           f"{name}, {value}, {error}", input_name=name, input_config=config, received_value=value,
                           exception_message=str(error))
    if checked_by_node:
        return None
    if "min" in options and value < options["min"]:
        return problem("value_smaller_than_min", f"Value {value} smaller than min of {options['min']}", name,
                       input_name=name, input_config=config, received_value=value)
    if "max" in options and value > options["max"]:
        return problem("value_bigger_than_max", f"Value {value} bigger than max of {options['max']}", name,
                       input_name=name, input_config=config, received_value=value)
    if isinstance(kind, list) and value not in kind:
        listed = str(kind) if len(kind) <= 20 else f"(list of length {len(kind)})"
        return problem("value_not_in_list", "Value not in list", f"{name}: '{value}' not in {listed}",
                       input_name=name, input_config=config, received_value=value)
    return None
