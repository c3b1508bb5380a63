# Files are edited as sed, patch, vim, and shells do it; and find tells what is newer.
export LC_ALL=C
touch "$SIDE/before"
sed -i 's/import/import  /' main.py execution.py
sed -i.bak '1d' custom_nodes/plain/nodes.py
printf 'x\n' >> nodes.py
: > server.py
cat > "$SIDE/edit.py" <<'P'
"""A save as vim does it: the first by a backup under another name, the second through the file itself."""
import os, sys
path, by_rename = sys.argv[1], sys.argv[2] == "rename"
meta = os.stat(path)
text = open(path, "rb").read()
swap = os.open(os.path.join(os.path.dirname(path), "." + os.path.basename(path) + ".swp"), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
os.write(swap, b"recovery")
# vim asks whether it may make files here.
probe = os.open(os.path.join(os.path.dirname(path), "4913"), os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, meta.st_mode & 0o777)
os.fchown(probe, meta.st_uid, meta.st_gid)
os.close(probe)
os.unlink(os.path.join(os.path.dirname(path), "4913"))
backup = path + "~"
attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
if by_rename:
    os.rename(path, backup)
    out = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
else:
    copy = os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL, meta.st_mode & 0o777)
    os.write(copy, text)
    os.utime(copy, ns=(meta.st_atime_ns, meta.st_mtime_ns))
    os.close(copy)
    out = os.open(path, os.O_WRONLY | os.O_TRUNC)
os.write(out, b"# edited\n" + text)
os.fsync(out)
if by_rename:
    os.fchown(out, meta.st_uid, meta.st_gid)
    os.fchmod(out, meta.st_mode & 0o7777)
    for name, value in attributes.items():
        os.setxattr(out, name, value)
os.close(out)
os.close(swap)
os.unlink(os.path.join(os.path.dirname(path), "." + os.path.basename(path) + ".swp"))
same = os.stat(path)
print((same.st_mode, same.st_uid, same.st_gid) == (meta.st_mode, meta.st_uid, meta.st_gid))
print(os.stat(path).st_ino == meta.st_ino, os.stat(backup).st_ino == meta.st_ino)
P
chmod 751 comfy/utils.py
setfattr -n user.editor -v kept comfy/utils.py
python3 "$SIDE/edit.py" comfy/utils.py rename
getfattr --only-values -n user.editor comfy/utils.py; echo
rm comfy/utils.py~
python3 "$SIDE/edit.py" comfy/utils.py in-place
python3 "$SIDE/edit.py" validation.py rename
python3 "$SIDE/edit.py" folder_paths.py in-place
find . -type f -newer "$SIDE/before" | sort
find . -name '*.py' ! -newer "$SIDE/before" | wc -l
diff -u main.py main.py > "$SIDE/none" && cp nodes.py "$SIDE/nodes.py"
sed 's/x$/y/' nodes.py > "$SIDE/new" || true
diff -u nodes.py "$SIDE/new" | sed 's/\t.*//' > "$SIDE/change" || true
du -s --apparent-size -B1 custom_nodes/plain/nodes.py models/checkpoints | sort
flock -n main.py sh -c 'flock -n main.py true || echo locked'
