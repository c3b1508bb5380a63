write("FILE", b"capital")
print(read("file"), read("FILE"), "File" in os.listdir("."), tried(read, "File"))
print(write("u\u0308", b"decomposed"), tried(read, "\u00fc"))
print(write(b"\xff\xfe \n\\", b"any bytes"), b"\xff\xfe \n\\" in os.listdir(b"."))
longest = "n" * 255
print(write(longest, b"x"), tried(write, longest + "n", b"x"), tried(os.stat, longest + "n"))
print(tried(os.mkdir, longest + "n"), tried(os.symlink, "x", longest + "n"), tried(os.rename, "FILE", longest + "n"))
print(tried(os.link, "FILE", longest + "n"), tried(os.rename, longest, "short"), read("short"))
print(write("\u00e9" * 127, b"254 bytes"), tried(write, "\u00e9" * 128, b"256 bytes"))
# Paths end at 4095 bytes; the tree does not.
top = os.getcwd()
for level in range(20):
    os.mkdir(longest)
    os.chdir(longest)
print(write("deep", b"deep"), read("deep"))
os.chdir(top)
print(os.path.isdir("/".join([longest] * 16)), tried(os.stat, "./" + "/".join([longest] * 16)))
print(tried(os.stat, "./" * 2047 + "f"), tried(os.stat, "./" * 2048 + "f"))
# Forty symlinks are followed, and no more.
os.symlink("file", "l1")
for level in range(2, 42):
    os.symlink(f"l{level - 1}", f"l{level}")
print(read("l40"), tried(read, "l41"))
os.symlink("loop", "loop")
print(tried(read, "loop"), tried(os.symlink, "t" * 4095, "longest"), tried(os.symlink, "t" * 4096, "longer"), len(os.readlink("longest")))
print(tried(os.symlink, "", "empty"), tried(os.mkdir, ""), tried(os.mkdir, "."), tried(os.rmdir, "dir/."), tried(os.rename, "dir", "dir/."))
