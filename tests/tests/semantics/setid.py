somebody = 65534


def bits(name, perm, f, *args, **options):
    make(name, perm, somebody, somebody)
    result = f(*args, **options)
    print(name, result, mode(name))


for number, perm in enumerate([0o6777, 0o6767, 0o4644]):
    name = lambda what: f"{what}-{number}"
    bits(name("write"), perm, as_user, somebody, write, name("write"), b"x")
    bits(name("append"), perm, as_user, somebody, write, name("append"), b"x", os.O_APPEND)
    bits(name("cut"), perm, as_user, somebody, os.truncate, name("cut"), 1)
    bits(name("reopened"), perm, as_user, somebody, write, name("reopened"), b"x", os.O_TRUNC)
    bits(name("group"), perm, as_user, somebody, os.chown, name("group"), -1, somebody)
    bits(name("by root"), perm, write, name("by root"), b"x")
    bits(name("owner"), perm, os.chown, name("owner"), 0, 0)
    bits(name("chmod"), perm, as_user, somebody, os.chmod, name("chmod"), perm)
    bits(name("chmod by others"), perm, as_user, somebody + 1, os.chmod, name("chmod by others"), perm)
    bits(name("touch"), perm, as_user, somebody, os.utime, name("touch"))
# A file of the version, copied up by the write that clears.
os.chmod("file", 0o6777)
print(as_user(somebody, write, "file", b"x"), mode("file"))
# In a group that is not theirs setgid cannot be set.
make("foreign", 0o777, somebody, 0)
print(as_user(somebody, os.chmod, "foreign", 0o2777), mode("foreign"))
make("dir-setgid/", 0o2777, somebody, somebody)
print(os.chown("dir-setgid", 0, 0), mode("dir-setgid"))
