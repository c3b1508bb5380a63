"""Compiles sources that come in on stdin and writes their bytecode to stdout, one answer for each, until stdin ends.

A request is three little-endian 32-bit numbers (the length of the name, the length of the source, the time of
modification), the name and the source. An answer is the length of the bytecode file and its bytes, or 0 where the
source cannot be compiled by this Python. The program runs without site-packages, so that nothing of an environment
can change what it does.
"""

import importlib.util
import marshal
import struct
import sys
import warnings

warnings.simplefilter("ignore")
requests, answers = sys.stdin.buffer, sys.stdout.buffer


def bytecode(name, source, modified):
    try:
        code = compile(source, name, "exec", dont_inherit=True, optimize=0)
        body = marshal.dumps(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return b""
    header = struct.pack("<III", 0, modified, len(source) & 0xFFFFFFFF)
    return importlib.util.MAGIC_NUMBER + header + body


def main():
    while True:
        head = requests.read(12)
        if len(head) < 12:
            return
        name_length, source_length, modified = struct.unpack("<III", head)
        name = requests.read(name_length).decode("utf-8", "surrogateescape")
        answer = bytecode(name, requests.read(source_length), modified)
        answers.write(struct.pack("<I", len(answer)) + answer)
        answers.flush()


main()
