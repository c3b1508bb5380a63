# Links, holes, a database with its log, a repository, a compiled program: all of the version, all changed.
export LC_ALL=C
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@example.com GIT_AUTHOR_DATE='1700000000 +0000'
export GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@example.com GIT_COMMITTER_DATE='1700000000 +0000'
rsync -aHAX --sparse ./ "$SIDE/out/"
rsync -aHAXc --dry-run --itemize-changes --delete ./ "$SIDE/out/"
tar -cSf "$SIDE/all.tar" --sort=name .
tar -df "$SIDE/all.tar"

python3 - <<'P'
import sqlite3
base = sqlite3.connect("data.db")
print(base.execute("select count(*), sum(n) from t").fetchall())
base.execute("update t set text = 'changed' where n % 2")
base.commit()
other = sqlite3.connect("data.db")
print(other.execute("select text, count(*) from t group by text").fetchall())
print(other.execute("pragma integrity_check").fetchall())
P

stat -c %h links/a
sed -i 's/^1$/one/' c
stat -c %h links/a c
echo more >> links/b
tail -n1 links/a linked-dir/b symlink
ln -f c links/c
rm links/a
cat symlink 2>&1 || true
mv links/b links/a
stat -c '%n %h %s' links/* c
cmp c links/a | cut -d' ' -f1-2 || true

stat -c %s sparse
printf middle | dd of=sparse bs=1 seek=1M conv=notrunc status=none
fallocate -p -o 2M -l 4096 sparse
fallocate -d sparse
truncate -s 4M sparse
python3 - <<'P'
import os
fd = os.open("sparse", os.O_RDONLY)
at, found = 0, []
while True:
    try:
        start = os.lseek(fd, at, os.SEEK_DATA)
    except OSError:
        break
    at = os.lseek(fd, start, os.SEEK_HOLE)
    found.append((start, at))
print(found)
P

cd repo
git status --porcelain
git fsck --no-progress
git rm -q 1 10
git mv 100 hundred
echo edited >> second
git commit -qam third
git checkout -q HEAD~2
git checkout -q master
git gc -q --prune=now
git status --porcelain
git rev-parse HEAD
cd ..

make -C project -s > "$SIDE/make" 2>&1
make -C project -q && echo up to date
touch project/main.c
make -C project
make -C project -q && echo up to date

find many -type f | wc -l
mv many/deep many/moved
mv many/moved/deeper deeper
rm -rf many
mkdir -p many/deep/deeper
echo again > many/1
ls -R many
cp -al deeper deeper2
rm -r deeper
mv deeper2 deeper
find deeper -type f -links 1 | wc -l
cp -r "$SIDE/out/many" many2
diff -rq many2 "$SIDE/out/many" && echo the same
rsync -a --delete "$SIDE/out/many/" many/
diff -rq many "$SIDE/out/many" && echo the same
rsync -aHAX --delete "$SIDE/out/" ./
rsync -aHAXn --itemize-changes --delete "$SIDE/out/" ./
diff -r --no-dereference . "$SIDE/out" && echo the same
find . -mindepth 1 -delete
ls -A
cp -a "$SIDE/out/." .
