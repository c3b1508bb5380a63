#!/usr/bin/env python3
"""Queues the workflow (API format) named on the command line and prints its prompt id."""

import json
import sys
import urllib.request

with open(sys.argv[1], encoding="utf-8") as file:
    body = json.dumps({"prompt": json.load(file)}).encode()
address = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8188"
with urllib.request.urlopen(address + "/prompt", data=body) as answer:
    print(json.load(answer)["prompt_id"])
