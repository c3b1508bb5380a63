"""Cannot be imported, whatever is installed."""

VERSION = "0.1.0"

raise ImportError(f"broken {VERSION} is broken on purpose")
