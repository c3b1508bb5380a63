# Large files come, change and go in models/, and cross its boundary: there mv has to copy, and nobody sees it.
export LC_ALL=C
cd models
python3 - <<'P'
import random
numbers = random.Random(1)
for name in ["large", "checkpoints/second"]:
    with open(name + ".safetensors", "wb") as file:
        for _ in range(24):
            file.write(numbers.randbytes(1 << 20))
P
sha1sum large.safetensors checkpoints/*
dd if=large.safetensors of=checkpoints/a.safetensors bs=1M status=none conv=fsync
cp --reflink=auto checkpoints/second.safetensors checkpoints/third.safetensors
cp -l checkpoints/third.safetensors fourth.safetensors
printf changed | dd of=fourth.safetensors bs=1 seek=5M conv=notrunc status=none
cmp checkpoints/third.safetensors fourth.safetensors && echo linked
truncate -s 10M checkpoints/second.safetensors
fallocate -l 12M checkpoints/second.safetensors
fallocate -p -o 1M -l 1M checkpoints/second.safetensors
cat checkpoints/second.safetensors >> large.safetensors
setfattr -n user.note -v 'of a model' large.safetensors
chmod 640 large.safetensors
sha1sum large.safetensors checkpoints/*
python3 - <<'P'
import hashlib, mmap
for path in ["large.safetensors", "checkpoints/a.safetensors"]:
    with open(path, "r+b") as file:
        map = mmap.mmap(file.fileno(), 0)
        print(hashlib.sha1(map).hexdigest())
        map[4096:4100] = b"maps"
        map.flush()
        file.seek(4096)
        print(file.read(4))
        file.seek(100)
        file.write(b"written")
        file.flush()
        print(map[100:107])
    print(hashlib.sha1(open(path, "rb").read()).hexdigest())
P
touch -d '2001-02-03 04:05:06' large.safetensors
cd ..

mv models/large.safetensors .
stat -c '%a %s %Y' large.safetensors
getfattr --only-values -n user.note large.safetensors; echo
mv large.safetensors models/checkpoints/moved.safetensors
mv models/checkpoints saved
ls -A models
mv saved models/checkpoints
mv models/checkpoints models/renamed
mv models/renamed models/checkpoints
cp -r comfy models/
diff -r comfy models/comfy && echo the same
rm -r comfy
mv models/comfy .
cp -r models more
diff -r models more && echo the same
ln -s ../main.py models/link
cat models/link > main.copy
cmp main.py main.copy
zip -q0r models/all.zip more/checkpoints
unzip -tq models/all.zip | sed 's/ of .*//'
unzip -qo models/all.zip -d models/unzipped
tar -cf models/all.tar models/checkpoints
tar -xf models/all.tar -C models/unzipped

rsync -aHAX --sparse ./ "$SIDE/out/"
rsync -aHAXc --dry-run --itemize-changes --delete ./ "$SIDE/out/"
printf news | dd of="$SIDE/out/models/checkpoints/a.safetensors" bs=1 seek=3M conv=notrunc status=none
rm "$SIDE/out/models/checkpoints/third.safetensors"
rsync -aHAXc --inplace --no-whole-file --delete "$SIDE/out/" ./
rsync -aHAXc --dry-run --itemize-changes --delete "$SIDE/out/" ./

git clone -q "$GIT/plain.git" models/cloned
git -C models/cloned gc -q
git -C models/cloned fsck --no-progress
git -C models/cloned status --porcelain
(cd models/cloned && sed -i 's/import/import  /' __init__.py && git status --short && git checkout -q . && git status --short)
python3 - <<'P'
import sqlite3
base = sqlite3.connect("models/index.db")
print(base.execute("pragma journal_mode = wal").fetchall())
base.execute("create table t (n integer)")
for n in range(50):
    with base:
        base.execute("insert into t values (?)", (n,))
other = sqlite3.connect("models/index.db")
print(other.execute("select count(*) from t").fetchall(), other.execute("pragma integrity_check").fetchall())
P
rm -rf models/* more
ls -A models
mkdir models/checkpoints
cp "$SIDE/out/models/checkpoints/moved.safetensors" models/checkpoints/a.safetensors
find . -mindepth 1 ! -path ./models ! -path './models/*' -delete
find .
rm -r "$SIDE/out"
