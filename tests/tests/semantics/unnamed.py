import tempfile

print(tried(os.open, ".", os.O_TMPFILE | os.O_RDWR))
tempfile.tempdir = os.getcwd()
with tempfile.TemporaryFile() as file:
    file.write(b"x" * 9000)
    file.seek(8999)
    print(file.read(), os.fstat(file.fileno()).st_nlink)
with tempfile.NamedTemporaryFile() as file:
    print(os.path.dirname(file.name) == os.getcwd(), os.path.exists(file.name))
print(sorted(os.listdir(".")))
