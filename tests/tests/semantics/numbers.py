def number(path):
    return os.lstat(path).st_ino


first = {path: number(path) for path in ["file", "dir", "dir/other", "link", "one"]}
print(len(set(first.values())) == len(first), len({os.lstat(path).st_dev for path in first}))
print(first["one"] == number("two") == number("dir/three"))
print(all(entry.inode() == number(entry.path) for dir in [".", "dir"] for entry in os.scandir(dir)))
write("file", b"changed")
os.chmod("dir/other", 0o600)
os.utime("link", (1, 1), follow_symlinks=False)
os.setxattr("one", "user.name", b"value")
os.rename("dir", "renamed")
os.rename("renamed/other", "other")
os.link("file", "renamed/file")
now = {path: number(path) for path in ["file", "renamed", "other", "link", "one"]}
print(list(now.values()) == list(first.values()))
print(number("renamed/file") == first["file"], number("renamed/three") == number("two") == first["one"])
print(all(entry.inode() == number(entry.path) for dir in [".", "renamed"] for entry in os.scandir(dir)))
