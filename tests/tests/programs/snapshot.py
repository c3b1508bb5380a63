"""Prints one line for everything below the working directory: all that a program can learn of it, but numbers of
inodes and devices. Arguments: the time, in seconds, from which a time of change is only "new"; then suffixes of files
whose bytes are left out. Where the directory itself is named in a file, the name does not count."""
import hashlib
import os
import stat
import sys

started, left_out = float(sys.argv[1]), tuple(sys.argv[2:])
top, firsts, lines = os.getcwdb(), {}, []


def look(path):
    meta = os.lstat(path)
    kind = stat.S_IFMT(meta.st_mode)
    words = [path, oct(meta.st_mode), f"{meta.st_uid}:{meta.st_gid}", f"links={meta.st_nlink}"]
    if not path.endswith(left_out):
        words.append("new" if meta.st_mtime >= started else f"{meta.st_mtime_ns}")
    if kind == stat.S_IFLNK:
        words.append("-> " + os.readlink(path))
    elif kind == stat.S_IFREG:
        if not path.endswith(left_out):
            with open(path, "rb") as file:
                content = file.read().replace(top, b"$TOP")
            words += [str(meta.st_size), hashlib.sha1(content).hexdigest()]
        if meta.st_nlink > 1:
            words.append("is " + firsts.setdefault(meta.st_ino, path))
    if kind != stat.S_IFLNK:
        for name in sorted(os.listxattr(path)):
            words.append(f"{name}={os.getxattr(path, name)!r}")
    lines.append(" ".join(words))
    if kind == stat.S_IFDIR:
        for name in sorted(os.listdir(path)):
            look(os.path.join(path, name))


look(".")
print("\n".join(lines))
