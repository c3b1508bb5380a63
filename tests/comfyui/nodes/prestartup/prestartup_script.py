"""Runs before the core's own imports. The node fails it when asked to, by a file."""

import os
import sys

if os.path.exists(os.path.join(os.path.dirname(os.path.realpath(__file__)), "fail-prestartup")):
    raise RuntimeError("asked to fail")
os.environ["PRESTARTUP_SAW_NUMPY"] = str("numpy" in sys.modules)
