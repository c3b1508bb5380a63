if len(sys.argv) == 1:
    print(os.lstat("one").st_nlink)
    write("two", b"through the second", os.O_TRUNC)
    os.link("dir/three", "four")
else:
    print("after a mount")
names = ["one", "two", "dir/three", "four"]
print({os.lstat(name).st_nlink for name in names}, {read(name) for name in names})
print(len({os.lstat(name).st_ino for name in names}))
