reader = os.open("file", os.O_RDONLY)
with open("file", "rb") as file:
    map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
private = mmap.mmap(reader, 0, flags=mmap.MAP_PRIVATE)
private[1:2] = b"!"
print(os.pread(reader, 5, 0), map[:5], private[:5])
print(in_child(write, "file", b"BELOW"))
print(os.pread(reader, 5, 0), map[:5])
fd = os.open("file", os.O_RDWR)
shared = mmap.mmap(fd, 0)
shared[:3] = b"map"
print(os.pread(reader, 5, 0), map[:5], in_child(read, "file")[:5])
os.truncate("file", 3)
print(os.fstat(reader).st_size, os.pread(reader, 9, 0))
os.chmod("file", 0)
os.rename("file", "moved")
print(os.pread(reader, 9, 0), mode("moved"))
os.unlink("moved")
print(os.pread(reader, 9, 0), os.fstat(reader).st_nlink)
