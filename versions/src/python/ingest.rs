//! From an installed environment on disk to a manifest, in its normal form.
//!
//! Files enter as hard links: uv's cache, the installation and the object are one file with three names. What an earlier
//! environment brought in is so known by its inode, and is not read again. Hence nothing here writes into a file of the
//! installation.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use cvs_store::{BlobId, Intake, ManifestBuilder, RelPath, StoreError, StoredBlob, Transaction};
use rayon::prelude::*;

use super::bytecode::{self, Module};
use super::error::PythonError;
use super::event::{PythonEvent, PythonOptions};
use super::interpreter::Interpreter;
use super::normal::{self, Fate};

/// Names the keys of the index.
const CONTEXT: &str = "cvs 1 content of a linked file";
/// Files between two events.
const STEP: usize = 256;
/// What uv writes at installation is small: scripts, and notes on a package.
const WRITTEN: u64 = 1 << 20;

/// What was taken in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) compiled: u64,
}

/// What is found on disk, in the order of a manifest.
#[derive(Default)]
struct Listing {
    directories: Vec<RelPath>,
    symlinks: Vec<(RelPath, Vec<u8>)>,
    files: Vec<Found>,
    left_out: HashSet<RelPath>,
}

struct Found {
    path: RelPath,
    fate: Fate,
    executable: bool,
    size: u64,
    device: u64,
    inode: u64,
    names: u64,
}

/// Takes the environment at `root` in, and the bytecode of its packages.
pub(super) fn take(
    transaction: &Transaction,
    interpreter: &Interpreter,
    root: &Path,
    options: &PythonOptions<'_>,
) -> Result<(ManifestBuilder, Taken), PythonError> {
    let mut listing = Listing::default();
    list(root, &RelPath::root(), &mut listing, options)?;
    let mut builder = ManifestBuilder::new();
    let bad = |path: &RelPath| {
        let context = path.to_string();
        move |source| PythonError::Store(StoreError::Manifest { context, source })
    };
    for path in &listing.directories {
        builder.dir(path, 0o755).map_err(bad(path))?;
    }
    for (path, target) in &listing.symlinks {
        let program = path.as_bytes() == normal::PROGRAM.as_bytes();
        let target = if program { interpreter.path.as_os_str().as_bytes() } else { target };
        builder.symlink(path, target).map_err(bad(path))?;
    }
    let stored = store(transaction, interpreter, root, &listing, options)?;
    let mut taken = Taken::default();
    let mut modules = Vec::new();
    for (file, stored) in listing.files.iter().zip(stored) {
        let mode = if file.executable { 0o755 } else { 0o644 };
        builder.file(&file.path, mode, stored.size, stored.id).map_err(bad(&file.path))?;
        taken.files += 1;
        taken.bytes += stored.size;
        if bytecode::is_module(&file.path) && file.path.names().any(|name| name == b"site-packages") {
            modules.push(Module { path: file.path.clone(), blob: stored.id, size: stored.size });
        }
    }
    let compiled = bytecode::compile(transaction, interpreter, &modules, options)?;
    taken.compiled = compiled.new;
    for (module, stored) in modules.iter().zip(&compiled.bytecode) {
        if let (Some(stored), Some(path)) = (stored, bytecode::place(&module.path, interpreter)) {
            bytecode::add(&mut builder, &path, stored)?;
            taken.files += 1;
            taken.bytes += stored.size;
        }
    }
    Ok((builder, taken))
}

fn list(
    root: &Path,
    at: &RelPath,
    listing: &mut Listing,
    options: &PythonOptions<'_>,
) -> Result<(), PythonError> {
    options.check_cancel()?;
    let directory = root.join(at.as_path());
    let failed = |source| PythonError::io("list", &directory, source);
    for entry in fs::read_dir(&directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = at.join(entry.file_name().as_bytes());
        let path = path.map_err(|source| StoreError::Path { context: at.to_string(), source })?;
        let metadata = entry.metadata().map_err(|source| PythonError::io("look at", entry.path(), source))?;
        let mut fate = normal::fate(&path);
        if fate == Fate::Address {
            let content = fs::read(entry.path()).map_err(|e| PythonError::io("read", entry.path(), e))?;
            fate = if normal::is_of_this_machine(&content) { Fate::LeftOut } else { Fate::Taken };
        }
        if fate == Fate::LeftOut {
            listing.left_out.insert(path);
        } else if metadata.is_dir() {
            listing.directories.push(path.clone());
            list(root, &path, listing, options)?;
        } else if metadata.is_symlink() {
            let target = fs::read_link(entry.path());
            let target = target.map_err(|source| PythonError::io("read link", entry.path(), source))?;
            listing.symlinks.push((path, target.into_os_string().into_vec()));
        } else if metadata.is_file() {
            listing.files.push(Found {
                path,
                fate,
                executable: metadata.mode() & 0o111 != 0,
                size: metadata.len(),
                device: metadata.dev(),
                inode: metadata.ino(),
                names: metadata.nlink(),
            });
        }
    }
    Ok(())
}

/// Stores the files of `listing`, in their order.
fn store(
    transaction: &Transaction,
    interpreter: &Interpreter,
    root: &Path,
    listing: &Listing,
    options: &PythonOptions<'_>,
) -> Result<Vec<StoredBlob>, PythonError> {
    let index = transaction.store().index();
    let files = &listing.files;
    let keys: Vec<[u8; 32]> = files.iter().map(key).collect();
    let known = recognise(transaction, files, index.derived(&keys))?;
    let finished = AtomicUsize::new(0);
    let stored: Vec<(StoredBlob, bool)> = files
        .par_iter()
        .zip(known)
        .map(|(file, known)| {
            options.check_cancel()?;
            let place = root.join(file.path.as_path());
            let read = || fs::read(&place).map_err(|source| PythonError::io("read", &place, source));
            let done = match (file.fate, known) {
                (_, Some(known)) => (known, false),
                (Fate::Configuration, _) => (bytes(transaction, &normal::configuration(interpreter))?, false),
                (Fate::Record, _) => {
                    let base = file.path.parent().and_then(|info| info.parent()).unwrap_or_default();
                    (bytes(transaction, &normal::record(&read()?, &base, &listing.left_out))?, false)
                }
                _ => {
                    if file.names == 1 && file.size <= WRITTEN && holds(&read()?, root) {
                        return Err(PythonError::BuildPath { path: file.path.to_string() });
                    }
                    (transaction.put_file(&place, Intake::HardLink)?, file.names > 1)
                }
            };
            let finished = finished.fetch_add(1, Ordering::Relaxed) + 1;
            if finished.is_multiple_of(STEP) || finished == files.len() {
                options.event(PythonEvent::Storing { done: finished, total: files.len() });
            }
            Ok(done)
        })
        .collect::<Result<_, PythonError>>()?;
    let new = keys.iter().zip(&stored).filter(|(_, (_, new))| *new);
    index.put_derived(&new.map(|(key, (stored, _))| (*key, stored.id)).collect::<Vec<_>>());
    Ok(stored.into_iter().map(|(stored, _)| stored).collect())
}

fn bytes(transaction: &Transaction, content: &[u8]) -> Result<StoredBlob, PythonError> {
    Ok(StoredBlob { id: transaction.put_bytes(content)?, size: content.len() as u64 })
}

/// The files that are objects already, by their inode: such a file has the object's content, whatever the index was
/// told.
fn recognise(
    transaction: &Transaction,
    files: &[Found],
    remembered: Vec<Option<BlobId>>,
) -> Result<Vec<Option<StoredBlob>>, PythonError> {
    let is_object = |id: &BlobId, file: &Found| {
        let object = fs::symlink_metadata(transaction.store().blob_path(id));
        object.is_ok_and(|object| (object.dev(), object.ino()) == (file.device, file.inode))
    };
    let known: Vec<Option<BlobId>> = files
        .par_iter()
        .zip(remembered)
        .map(|(file, id)| id.filter(|id| file.fate == Fate::Taken && is_object(id, file)))
        .collect();
    let ids: Vec<BlobId> = known.iter().flatten().copied().collect();
    let mut sizes = transaction.has_blobs(&ids)?.into_iter();
    let claimed = known.into_iter().zip(files).map(|(id, file)| {
        let id = id?;
        sizes.next().flatten().filter(|&size| size == file.size).map(|size| StoredBlob { id, size })
    });
    Ok(claimed.collect())
}

fn key(file: &Found) -> [u8; 32] {
    let numbers = [file.device.to_le_bytes(), file.inode.to_le_bytes()].concat();
    blake3::derive_key(CONTEXT, &numbers)
}

fn holds(content: &[u8], root: &Path) -> bool {
    let path = root.as_os_str().as_bytes();
    content.windows(path.len()).any(|part| part == path)
}

#[cfg(test)]
mod tests {
    use cvs_store::Store;

    use super::*;

    #[test]
    fn a_file_that_names_its_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("env");
        let package = root.join("lib/python3.11/site-packages/alpha");
        fs::create_dir_all(&package).unwrap();
        fs::write(package.join("paths.txt"), format!("prefix = {}\n", root.display())).unwrap();
        let interpreter = Interpreter {
            path: "/usr/bin/python3".into(),
            version: "3.11.7".to_owned(),
            implementation: "cpython".to_owned(),
            platform: "linux-x86_64".to_owned(),
            cache_tag: "cpython-311".to_owned(),
        };
        let store = Store::open(&dir.path().join("home")).unwrap();
        let transaction = store.begin("test").unwrap();
        let error = take(&transaction, &interpreter, &root, &PythonOptions::default()).err().unwrap();
        assert_eq!(
            error.to_string(),
            "lib/python3.11/site-packages/alpha/paths.txt of the environment holds the path it was built at"
        );
    }
}
