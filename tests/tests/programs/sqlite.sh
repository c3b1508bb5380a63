# Two processes write one database in WAL mode; a third is killed in the middle; the log is checkpointed.
cat > "$SIDE/writer.py" <<'P'
import os, signal, sqlite3, sys
who, count, die = sys.argv[1], int(sys.argv[2]), len(sys.argv) > 3
base = sqlite3.connect("user/data.db", timeout=60, isolation_level=None)
print(base.execute("pragma journal_mode").fetchone()[0])
base.execute("pragma synchronous = normal")
for n in range(count):
    base.execute("begin immediate")
    base.execute("insert into t values (?, ?, randomblob(3000))", (who, n))
    base.execute("update t set n = n where who = ?", (who,))
    base.execute("commit")
if die:
    base.execute("begin immediate")
    base.execute("pragma cache_spill = 1")
    base.execute("pragma cache_size = 1")
    base.execute("delete from t")
    os.kill(os.getpid(), signal.SIGKILL)
P
mkdir -p user
python3 - <<'P'
import sqlite3
# Nobody waits for the change of the mode, so it comes before the two.
base = sqlite3.connect("user/data.db")
print(base.execute("pragma journal_mode = wal").fetchall())
base.execute("create table t (who text, n integer, bytes blob)")
P
python3 "$SIDE/writer.py" first 60 > "$SIDE/first" & first=$!
python3 "$SIDE/writer.py" second 60 > "$SIDE/second" & second=$!
wait $first
wait $second
cat "$SIDE/first" "$SIDE/second"
python3 "$SIDE/writer.py" third 5 die || echo killed
python3 - <<'P'
import os, sqlite3
base = sqlite3.connect("user/data.db")
print(base.execute("select who, count(*), sum(n), sum(length(bytes)) from t group by who").fetchall())
print(base.execute("pragma integrity_check").fetchall())
print(base.execute("pragma wal_checkpoint(truncate)").fetchall(), os.path.getsize("user/data.db-wal"))
base.execute("pragma journal_mode = delete")
base.execute("vacuum")
base.close()
print(sorted(name for name in os.listdir("user") if name.startswith("data")))
P
