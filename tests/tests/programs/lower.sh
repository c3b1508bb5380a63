# Makes what the story `stored` is told in: everything in it is of the version when that begins.
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@example.com GIT_AUTHOR_DATE='1700000000 +0000'
export GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@example.com GIT_COMMITTER_DATE='1700000000 +0000'
mkdir links
seq 10000 > links/a
ln links/a links/b
ln links/a c
ln -s links/a symlink
ln -s links linked-dir
truncate -s 3M sparse
printf end | dd of=sparse bs=1 seek=2M conv=notrunc status=none
mkdir -p many/deep/deeper project repo
for number in $(seq 600); do echo "$number" > "many/$number"; done
for number in $(seq 300); do echo "$number" > "many/deep/deeper/$number"; done
cp many/deep/deeper/1* repo/
git -c init.defaultBranch=master -C repo init -q
git -C repo add -A
git -C repo commit -qm first
echo second > repo/second
git -C repo add -A
git -C repo commit -qm second
printf '%s\n' 'int main(void) { return 0; }' > project/main.c
printf '%s\n' 'all: main' 'main: main.o' '	cc -o $@ main.o' > project/Makefile
make -s -C project
python3 - <<'P'
import os, sqlite3
base = sqlite3.connect("data.db", isolation_level=None)
base.execute("pragma journal_mode = wal")
base.execute("create table t (n integer, text)")
for n in range(500):
    base.execute("insert into t values (?, 'of the version')", (n,))
# The log stays, as after a crash.
os._exit(0)
P
