//! The index: a SQLite file that remembers which content a git object, a sha256 or a source turned out to be.
//!
//! It is a cache and never truth. A hit must be confirmed by [`Transaction::has_blob`](crate::Transaction::has_blob)
//! or `has_manifest`; a miss costs time only. So no call here fails: a file that is missing, foreign or damaged is
//! replaced by an empty one. It says so of itself until somebody who knows better has filled it.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use crate::id::{BlobId, ManifestId};

const SCHEMA_VERSION: i64 = 3;
/// `application_id` of a filled index.
const FILLED: i64 = 1;
const SCHEMA: &str = "
    CREATE TABLE git(oid BLOB PRIMARY KEY, blob BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE sha256(sha256 BLOB PRIMARY KEY, blob BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE source(key TEXT PRIMARY KEY, manifest BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE fact(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE derived(key BLOB PRIMARY KEY, blob BLOB NOT NULL) WITHOUT ROWID;
    PRAGMA user_version = 3;
";

/// The index of a store.
pub struct Index {
    path: PathBuf,
    connection: Mutex<Option<Connection>>,
}

impl Index {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, connection: Mutex::new(None) }
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The blobs that these git objects are known to be.
    pub fn git_blobs(&self, oids: &[[u8; 20]]) -> Vec<Option<BlobId>> {
        self.run(|db| {
            let mut statement = db.prepare_cached("SELECT blob FROM git WHERE oid = ?1")?;
            oids.iter()
                .map(|oid| statement.query_row([oid], |row| row.get(0)).optional())
                .map(|row| row.map(|bytes| bytes.map(BlobId::from_bytes)))
                .collect()
        })
        .unwrap_or_else(|| vec![None; oids.len()])
    }

    /// Remembers what git objects are.
    pub fn put_git_blobs(&self, pairs: &[([u8; 20], BlobId)]) {
        self.run(|db| {
            let batch = db.unchecked_transaction()?;
            {
                let mut statement = batch.prepare_cached("INSERT OR REPLACE INTO git VALUES (?1, ?2)")?;
                for (oid, blob) in pairs {
                    statement.execute(params![oid, blob.as_bytes()])?;
                }
            }
            batch.commit()
        });
    }

    /// The blobs that were found under these keys, which are hashes of whatever somebody worked hard to turn into a
    /// blob. Who makes keys sets them apart from those of others.
    pub fn derived(&self, keys: &[[u8; 32]]) -> Vec<Option<BlobId>> {
        self.run(|db| {
            let mut statement = db.prepare_cached("SELECT blob FROM derived WHERE key = ?1")?;
            keys.iter()
                .map(|key| statement.query_row([key], |row| row.get(0)).optional())
                .map(|row| row.map(|bytes| bytes.map(BlobId::from_bytes)))
                .collect()
        })
        .unwrap_or_else(|| vec![None; keys.len()])
    }

    /// Remembers what the work of these keys came to.
    pub fn put_derived(&self, pairs: &[([u8; 32], BlobId)]) {
        self.run(|db| {
            let batch = db.unchecked_transaction()?;
            {
                let mut statement = batch.prepare_cached("INSERT OR REPLACE INTO derived VALUES (?1, ?2)")?;
                for (key, blob) in pairs {
                    statement.execute(params![key, blob.as_bytes()])?;
                }
            }
            batch.commit()
        });
    }

    /// The blob with this sha256.
    pub fn by_sha256(&self, sha256: &[u8; 32]) -> Option<BlobId> {
        self.run(|db| {
            let mut statement = db.prepare_cached("SELECT blob FROM sha256 WHERE sha256 = ?1")?;
            statement.query_row([sha256], |row| row.get(0)).optional()
        })
        .flatten()
        .map(BlobId::from_bytes)
    }

    /// Remembers the sha256 of a blob.
    pub fn put_sha256(&self, sha256: &[u8; 32], blob: &BlobId) {
        self.run(|db| {
            db.execute("INSERT OR REPLACE INTO sha256 VALUES (?1, ?2)", params![sha256, blob.as_bytes()])
        });
    }

    /// The manifest of a source, for instance `git:<commit>`.
    pub fn source(&self, key: &str) -> Option<ManifestId> {
        self.run(|db| {
            let mut statement = db.prepare_cached("SELECT manifest FROM source WHERE key = ?1")?;
            statement.query_row([key], |row| row.get(0)).optional()
        })
        .flatten()
        .map(ManifestId::from_bytes)
    }

    /// Remembers the manifest of a source.
    pub fn put_source(&self, key: &str, manifest: &ManifestId) {
        self.run(|db| {
            db.execute("INSERT OR REPLACE INTO source VALUES (?1, ?2)", params![key, manifest.as_bytes()])
        });
    }

    /// True once [`Self::mark_filled`] was called for this file; false after it began empty.
    pub fn is_filled(&self) -> bool {
        self.run(|db| db.query_row("PRAGMA application_id", [], |row| row.get::<_, i64>(0)))
            .is_some_and(|id| id == FILLED)
    }

    /// Says that whatever can be known without it was put in.
    pub fn mark_filled(&self) {
        self.run(|db| db.pragma_update(None, "application_id", FILLED));
    }

    /// Checks the file itself and returns every object it speaks of; none when it was damaged and has been replaced.
    pub(crate) fn check(&self) -> Option<IndexContent> {
        self.run(|db| {
            let verdict: String = db.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
            if verdict != "ok" {
                return Err(damaged());
            }
            let column = |sql: &str| -> rusqlite::Result<Vec<[u8; 32]>> {
                db.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
            };
            Ok(IndexContent {
                blobs: column(
                    "SELECT blob FROM git UNION SELECT blob FROM sha256 UNION SELECT blob FROM derived",
                )?,
                manifests: column("SELECT DISTINCT manifest FROM source")?,
            })
        })
    }

    /// What was found out about something immutable, in words of whoever found it out.
    pub fn fact(&self, key: &str) -> Option<String> {
        self.run(|db| {
            let mut statement = db.prepare_cached("SELECT value FROM fact WHERE key = ?1")?;
            statement.query_row([key], |row| row.get(0)).optional()
        })
        .flatten()
    }

    /// Remembers what was found out.
    pub fn put_fact(&self, key: &str, value: &str) {
        self.run(|db| db.execute("INSERT OR REPLACE INTO fact VALUES (?1, ?2)", params![key, value]));
    }

    /// Forgets what it knows of these objects.
    pub(crate) fn forget(&self, blobs: &[[u8; 32]], manifests: &[[u8; 32]]) {
        if blobs.is_empty() && manifests.is_empty() {
            return;
        }
        self.run(|db| {
            // One pass over each table, however many there are.
            let batch = db.unchecked_transaction()?;
            batch.execute_batch("CREATE TEMP TABLE gone(id BLOB PRIMARY KEY) WITHOUT ROWID")?;
            {
                let mut insert = batch.prepare("INSERT OR IGNORE INTO gone VALUES (?1)")?;
                for id in blobs.iter().chain(manifests) {
                    insert.execute([id])?;
                }
            }
            batch.execute_batch(
                "DELETE FROM git WHERE blob IN (SELECT id FROM gone);
                 DELETE FROM sha256 WHERE blob IN (SELECT id FROM gone);
                 DELETE FROM derived WHERE blob IN (SELECT id FROM gone);
                 DELETE FROM source WHERE manifest IN (SELECT id FROM gone);
                 DROP TABLE gone;",
            )?;
            batch.commit()
        });
    }

    /// Begins again with an empty file.
    pub(crate) fn clear(&self) {
        let mut connection = self.connection.lock().unwrap_or_else(|e| e.into_inner());
        *connection = None;
        remove(&self.path);
    }

    /// Runs `work`; on damage, replaces the file and tries once more. Any other failure is a miss.
    fn run<T>(&self, work: impl Fn(&Connection) -> rusqlite::Result<T>) -> Option<T> {
        let mut connection = self.connection.lock().unwrap_or_else(|e| e.into_inner());
        for attempt in 0..2 {
            let done = match &*connection {
                Some(open) => work(open),
                None => open(&self.path).and_then(|open| {
                    let done = work(&open);
                    *connection = Some(open);
                    done
                }),
            };
            match done {
                Ok(value) => return Some(value),
                Err(error) if attempt == 0 && is_damage(&error) => {
                    tracing::warn!(path = %self.path.display(), %error, "the index is damaged and starts anew");
                    *connection = None;
                    remove(&self.path);
                }
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "the index cannot be used");
                    return None;
                }
            }
        }
        None
    }
}

pub(crate) struct IndexContent {
    pub(crate) blobs: Vec<[u8; 32]>,
    pub(crate) manifests: Vec<[u8; 32]>,
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(Duration::from_secs(10))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    // In WAL mode this can lose the last entries in a power cut, but never damages the file.
    db.pragma_update(None, "synchronous", "NORMAL")?;
    let version = |db: &Connection| db.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    match version(&db)? {
        SCHEMA_VERSION => Ok(db),
        0 => {
            let batch = rusqlite::Transaction::new_unchecked(&db, rusqlite::TransactionBehavior::Immediate)?;
            // Another process may have made the tables since we looked.
            if version(&batch)? == 0 {
                batch.execute_batch(SCHEMA)?;
            }
            batch.commit()?;
            Ok(db)
        }
        _ => Err(damaged()),
    }
}

fn damaged() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), None)
}

/// Errors that say the file is not the index we made: replacing it is right. A full disk or a busy file is not one.
fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, message) => {
            matches!(failure.code, rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
                || message
                    .as_deref()
                    .is_some_and(|text| text.starts_with("no such table") || text.contains("no such column"))
        }
        rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::FromSqlConversionFailure(..) => true,
        _ => false,
    }
}

fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        let _ = std::fs::remove_file(PathBuf::from(file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::new(dir.path().join("index.sqlite"));
        let blob = BlobId::of(b"x");
        index.put_git_blobs(&[([7; 20], blob)]);
        index.put_sha256(&[1; 32], &blob);
        index.put_source("git:1", &ManifestId::of(b"m"));
        index.put_fact("flags:1", "[]");
        assert_eq!([index.fact("flags:1"), index.fact("flags:2")], [Some("[]".to_owned()), None]);
        index.put_derived(&[([3; 32], blob)]);
        assert_eq!(index.git_blobs(&[[8; 20], [7; 20]]), [None, Some(blob)]);
        assert_eq!(index.by_sha256(&[1; 32]), Some(blob));
        assert_eq!(index.source("git:1"), Some(ManifestId::of(b"m")));
        assert_eq!(index.derived(&[[3; 32], [4; 32]]), [Some(blob), None]);
        assert!(!index.is_filled());
        index.mark_filled();
        assert!(index.is_filled() && Index::new(index.path.clone()).is_filled());
        index.forget(&[*blob.as_bytes()], &[]);
        assert_eq!((index.by_sha256(&[1; 32]), index.derived(&[[3; 32]])), (None, vec![None]));
    }

    #[test]
    fn garbage_and_foreign_files_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.sqlite");
        for content in [
            &b"this is not a database, but it is long enough to be looked at"[..],
            b"",
            b"SQLite format 3\0zz",
        ] {
            std::fs::write(&path, content).unwrap();
            let index = Index::new(path.clone());
            assert!(!index.is_filled());
            index.put_sha256(&[1; 32], &BlobId::of(b"x"));
            index.mark_filled();
            assert_eq!(index.by_sha256(&[1; 32]), Some(BlobId::of(b"x")));
        }
        let foreign = Connection::open(&path).unwrap();
        foreign.execute_batch("PRAGMA user_version = 99").unwrap();
        drop(foreign);
        assert_eq!(Index::new(path).by_sha256(&[1; 32]), None);
    }
}
