def lock(how, path, wait=False):
    fd = os.open(path, os.O_RDWR)
    if how == "flock":
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif how == "fcntl":
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
    elif how == "fcntl elsewhere":
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 100)
    elif how == "fcntl shared":
        fcntl.lockf(os.open(path, os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB, 10, 5)
    else:
        fcntl.fcntl(fd, 37, struct.pack("hhlli", fcntl.F_WRLCK, 0, 5, 10, 0))
    return fd


for path in ["file", "new"]:
    open(path, "ab").close()
    for how in ["flock", "fcntl", "ofd"]:
        fd = lock(how, path)
        others = [in_child(lock, other, path) for other in ["flock", "fcntl", "fcntl elsewhere", "fcntl shared", "ofd"]]
        print(path, how, [other if isinstance(other, str) else "got" for other in others])
        # Copying up, renaming and replacing change nothing for who has it.
        write(path, b"changed")
        os.rename(path, "moved")
        print("moved", in_child(lock, how, "moved"))
        os.rename("moved", path)
        os.close(fd)
        print("closed", isinstance(in_child(lock, how, path), int))
# Who waits gets it when it is given up, and when its owner dies.
for end in ["close", "die"]:
    ready_in, ready_out = os.pipe()
    end_in, end_out = os.pipe()
    child = os.fork()
    if child == 0:
        fd = lock("fcntl", "file")
        os.write(ready_out, b"x")
        os.read(end_in, 1)
        os.close(fd) if end == "close" else os.kill(os.getpid(), 9)
        os._exit(0)
    os.read(ready_in, 1)
    os.write(end_out, b"x")
    fd = os.open("file", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 5)
    print(end, "and got")
    os.close(fd)
    os.waitpid(child, 0)
