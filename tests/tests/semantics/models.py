import shutil

path = "models/model"
reader = os.open(path, os.O_RDONLY)
with open(path, "rb") as file:
    map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
number = os.stat(path).st_ino
print("written", in_child(write, path, b"NEW"), read(path)[:5])
print("who had it open", os.pread(reader, 5, 0), map[:5], os.fstat(reader).st_nlink)
print("number", os.stat(path).st_ino == number)
again = os.open(path, os.O_RDONLY)
number = os.stat(path).st_ino
print("written again", in_child(write, path, b"AGAIN"), os.pread(again, 5, 0), os.stat(path).st_ino == number)
print("a mountpoint", os.stat("models").st_dev == os.stat(".").st_dev)
print(tried(os.rename, path, "model"), tried(os.rename, "file", "models/file"), tried(os.link, path, "model"))
print(tried(os.rename, "models", "other"), tried(os.rmdir, "models"))
shutil.move(path, "moved")
shutil.move("moved", path)
print("moved", read(path)[:5], os.system("rm -rf ./* 2> /dev/null"), os.listdir("."), os.listdir("models"))
