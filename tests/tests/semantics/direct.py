block = mmap.mmap(-1, 8192)
for path in ["large", "new"]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    print(path, os.preadv(fd, [block], 4096), bytes(block[:4]))
    block[:] = b"d" * 8192
    print(os.pwritev(fd, [block], 8192), read(path)[8190:8196], os.fstat(fd).st_size)
    with open(path, "r+b") as buffered:
        map = mmap.mmap(buffered.fileno(), 0)
        os.pwrite(buffered.fileno(), b"buffered", 8192)
        print(os.preadv(fd, [block], 8192), bytes(block[:9]), map[8192:8201])
        block[:] = b"e" * 8192
        os.pwritev(fd, [block], 8192)
        print(os.pread(buffered.fileno(), 3, 8192), map[8192:8195])
    os.close(fd)
