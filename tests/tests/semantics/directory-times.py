def moved(what, f, *args):
    """Which of the directory's times move."""
    before = os.lstat("dir")
    # Later than any clock that file times are taken from could round to.
    time.sleep(0.02)
    f(*args)
    after = os.lstat("dir")
    os.listdir("dir")
    again = os.lstat("dir")
    print(what, after.st_mtime_ns > before.st_mtime_ns, after.st_ctime_ns > before.st_ctime_ns)
    assert (after.st_mtime_ns, after.st_ctime_ns, after.st_size) == (again.st_mtime_ns, again.st_ctime_ns, again.st_size)


moved("write", write, "dir/other", b"changed")
moved("write again", write, "dir/other", b"again")
moved("write below", write, "dir/sub/deep", b"changed")
moved("chmod below", os.chmod, "dir/three", 0o600)
moved("map", lambda: mmap.mmap(os.open("dir/other", os.O_RDWR), 0).__setitem__(0, 65))
moved("make below", write, "dir/sub/new", b"new")
moved("make", write, "dir/new", b"new")
moved("remove", os.unlink, "dir/other")
moved("rename", os.rename, "dir/new", "dir/newer")
moved("move out", os.rename, "dir/newer", "newer")
moved("link", os.link, "newer", "dir/newer")
moved("make a directory", os.mkdir, "dir/made")
moved("remove a directory", os.rmdir, "dir/made")
moved("chmod", os.chmod, "dir", 0o700)
moved("setxattr", os.setxattr, "dir", "user.name", b"value")
moved("rename itself", lambda: (os.rename("dir", "away"), os.rename("away", "dir")))
