# Models are mapped, shared and private, while they are read, written, replaced and removed.
python3 - <<'P'
import hashlib, mmap, os, shutil
path = "models/checkpoints/a.safetensors"
before = open(path, "rb").read()
with open(path, "rb") as file:
    shared = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    private = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
private[:5] = b"mine!"
print(shared[:] == before, open(path, "rb").read() == before, private[:5])
with open(path, "r+b") as file:
    file.seek(100_000)
    file.write(b"theirs")
print(shared[100_000:100_006], private[100_000:100_006], private[:5])
with open(path, "r+b") as file:
    writable = mmap.mmap(file.fileno(), 0)
    writable[150_000:150_004] = b"maps"
    writable.flush()
    print(os.pread(file.fileno(), 4, 150_000), shared[150_000:150_004])
    writable[150_004:150_008] = b"last"
    writable.close()
print(open(path, "rb").read()[150_000:150_008])
shutil.copyfile(path, path + ".new")
os.replace(path + ".new", path)
with open(path, "r+b") as file:
    file.write(b"another")
print(shared[:7] == before[:7], len(shared))
os.unlink(path)
print(hashlib.sha1(shared).hexdigest() == hashlib.sha1(before).hexdigest(), shared[100_000:100_006])
open(path, "wb").write(before)
P
