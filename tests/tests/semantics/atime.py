os.utime("dir/other", (1_500_000_000, 1_600_000_000))
for path in ["file", "dir/other", "dir"]:
    before = os.lstat(path)
    os.listdir(path) if path == "dir" else read(path)
    after = os.lstat(path)
    print(path, after.st_atime_ns == before.st_atime_ns)
print(os.lstat("dir/other").st_atime, os.lstat("dir/other").st_mtime)
print(os.lstat("file").st_atime == os.lstat("file").st_mtime)
