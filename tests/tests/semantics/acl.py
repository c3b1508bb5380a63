acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in [(1, 6, -1), (2, 4, 65534), (4, 4, -1), (16, 4, -1), (32, 4, -1)])
print(tried(os.setxattr, "file", "system.posix_acl_access", acl), tried(os.setxattr, "dir", "system.posix_acl_default", acl))
print(tried(os.getxattr, "file", "system.posix_acl_access"), os.listxattr("file"))
