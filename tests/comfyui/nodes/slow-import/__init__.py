"""Takes its time to be imported, as nodes with heavy libraries do: SLOW_IMPORT_SECONDS, half a second by default."""

import os
import time

VERSION = "0.1.0"

time.sleep(float(os.environ.get("SLOW_IMPORT_SECONDS", "0.5")))

NODE_CLASS_MAPPINGS = {}
