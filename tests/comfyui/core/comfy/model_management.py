"""Interruption of the running prompt, and what is told about the device."""

import threading


class InterruptProcessingException(Exception):
    """Raised in the running node when a client asked for an interrupt."""


_interrupted = threading.Event()


def interrupt_current_processing(value=True):
    if value:
        _interrupted.set()
    else:
        _interrupted.clear()


def throw_exception_if_processing_interrupted():
    if _interrupted.is_set():
        _interrupted.clear()
        raise InterruptProcessingException()


def wait_unless_interrupted(seconds):
    """Waits, and raises at once when an interrupt comes."""
    _interrupted.wait(seconds)
    throw_exception_if_processing_interrupted()


def memory():
    """(total, free) main memory in bytes."""
    fields = {}
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            name, value = line.split(":")
            fields[name] = int(value.split()[0]) * 1024
    return fields["MemTotal"], fields["MemAvailable"]
