"""user/comfyui.db: SQLite in WAL mode, migrated forward only."""

import logging
import os
import sqlite3
import sys
import time

import folder_paths
from comfy.cli_args import args

# In the order they are applied; the database remembers the last one.
REVISIONS = {
    "0001_runs": "CREATE TABLE runs (prompt_id TEXT PRIMARY KEY, status TEXT NOT NULL, ended REAL NOT NULL)",
}

_connection = None


def database_path():
    if args.database_url is not None:
        scheme, separator, path = args.database_url.partition("sqlite:///")
        if scheme or not separator:
            sys.exit(f"Unsupported database URL '{args.database_url}'.")
        return path
    return os.path.join(folder_paths.get_user_directory(), "comfyui.db")


def setup_database():
    """Opens the database and brings it to the newest revision; ends the program when a newer ComfyUI has written it."""
    global _connection
    path = database_path()
    if path != ":memory:":
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    connection = sqlite3.connect(path, timeout=10, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    with connection:
        connection.execute("CREATE TABLE IF NOT EXISTS alembic_version (version_num TEXT NOT NULL)")
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        names = list(REVISIONS)
        if row is not None and row[0] not in REVISIONS:
            logging.error("Failed to initialize database: Can't locate revision identified by '%s'", row[0])
            sys.exit(1)
        for name in names[names.index(row[0]) + 1 if row else 0:]:
            connection.execute(REVISIONS[name])
            connection.execute("DELETE FROM alembic_version")
            connection.execute("INSERT INTO alembic_version VALUES (?)", (name,))
    _connection = connection


def record_run(prompt_id, status):
    """Called by the prompt worker only. The connection, and so the shared-memory file, stays open until the end."""
    with _connection:
        _connection.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", (prompt_id, status, time.time()))
