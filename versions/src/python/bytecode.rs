//! Bytecode that stays valid in a view.
//!
//! Python takes bytecode for valid when it holds the time of modification and the size of its source. A view shows for
//! every file a time that follows from its content ([`content_mtime`]), so that bytecode can be made once, before there
//! is a view, and is never taken for a file that was edited. The file name that it holds is that of the source without
//! directories: Python puts the real one in when it loads a module, and equal sources have equal bytecode wherever they
//! are. The index remembers what was compiled from what.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cvs_store::{
    BlobId, EntryKind, Manifest, ManifestBuilder, ManifestId, NAME_MAX, RelPath, StoreError, StoredBlob,
    Transaction, content_mtime,
};

use super::error::PythonError;
use super::event::{PythonEvent, PythonOptions};
use super::interpreter::Interpreter;
use super::workers::Worker;

/// Names the keys of the index. Another number makes all bytecode anew.
const CONTEXT: &str = "cvs 1 bytecode of a source file";
/// Files between two events.
const STEP: usize = 32;

/// The bytecode of a source tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BytecodeReport {
    /// What is grafted where the tree is.
    pub manifest: ManifestId,
    /// Files of bytecode.
    pub files: u64,
    /// Those that no earlier work had compiled.
    pub compiled: u64,
}

/// One source file.
pub(super) struct Module {
    pub(super) path: RelPath,
    pub(super) blob: BlobId,
    pub(super) size: u64,
}

/// What became of the modules.
pub(super) struct Compiled {
    /// The bytecode of each; none where there is none.
    pub(super) bytecode: Vec<Option<StoredBlob>>,
    /// Sources that were compiled now.
    pub(super) new: u64,
}

/// Compiles the sources of a core or node; none when there is nothing to compile. Where the tree has bytecode of its own,
/// that stays.
///
/// # Errors
/// Those of the store, [`PythonError::Io`] when the interpreter cannot be started, [`PythonError::Cancelled`].
pub fn bytecode(
    transaction: &Transaction,
    interpreter: &Interpreter,
    source: &Manifest,
    options: &PythonOptions<'_>,
) -> Result<Option<BytecodeReport>, PythonError> {
    let mut modules = Vec::new();
    let mut others = HashSet::new();
    for (path, entry) in source.walk() {
        match source.blob(&entry) {
            Some(blob) if is_module(&path) => modules.push(Module { path, blob, size: entry.size() }),
            _ if path.as_bytes().windows(CACHE.len()).any(|part| part == CACHE.as_bytes())
                && !(entry.kind() == EntryKind::Dir) =>
            {
                others.insert(path);
            }
            _ => {}
        }
    }
    let compiled = compile(transaction, interpreter, &modules, options)?;
    let mut builder = ManifestBuilder::new();
    let mut files = 0;
    for (module, stored) in modules.iter().zip(&compiled.bytecode) {
        let (Some(stored), Some(path)) = (stored, place(&module.path, interpreter)) else { continue };
        if others.contains(&path) || path.parent().is_some_and(|parent| others.contains(&parent)) {
            continue;
        }
        add(&mut builder, &path, stored)?;
        files += 1;
    }
    if files == 0 {
        return Ok(None);
    }
    Ok(Some(BytecodeReport { manifest: transaction.put_manifest(builder)?, files, compiled: compiled.new }))
}

const CACHE: &str = "__pycache__";

/// Lists one file of bytecode.
pub(super) fn add(
    builder: &mut ManifestBuilder,
    path: &RelPath,
    stored: &StoredBlob,
) -> Result<(), PythonError> {
    let added = builder.file(path, 0o644, stored.size, stored.id);
    added.map_err(|source| StoreError::Manifest { context: path.to_string(), source }.into())
}

/// True for what Python would import from source.
pub(super) fn is_module(path: &RelPath) -> bool {
    path.file_name().is_some_and(|name| name.ends_with(b".py") && name.len() > 3)
}

/// Where Python looks for the bytecode of the module at `path`.
pub(super) fn place(path: &RelPath, interpreter: &Interpreter) -> Option<RelPath> {
    let stem = path.file_name()?.strip_suffix(b".py")?;
    let name = [stem, b".", interpreter.cache_tag.as_bytes(), b".pyc"].concat();
    if name.len() > NAME_MAX || interpreter.cache_tag.is_empty() {
        return None;
    }
    path.parent()?.join(CACHE).ok()?.join(name).ok()
}

/// Compiles what no earlier work has compiled; all of it is in the transaction then.
pub(super) fn compile(
    transaction: &Transaction,
    interpreter: &Interpreter,
    modules: &[Module],
    options: &PythonOptions<'_>,
) -> Result<Compiled, PythonError> {
    let index = transaction.store().index();
    // Equal sources of one name are one job.
    let mut jobs: BTreeMap<[u8; 32], &Module> = BTreeMap::new();
    let keys: Vec<[u8; 32]> = modules.iter().map(|module| key(module, interpreter)).collect();
    for (key, module) in keys.iter().zip(modules) {
        jobs.entry(*key).or_insert(module);
    }
    let unique: Vec<[u8; 32]> = jobs.keys().copied().collect();
    let known = confirm(transaction, index.derived(&unique))?;
    let mut done: HashMap<[u8; 32], Outcome> = HashMap::new();
    let mut missing = Vec::new();
    for ((key, module), known) in jobs.into_iter().zip(known) {
        match known {
            Some(outcome) => {
                done.insert(key, outcome);
            }
            None => missing.push((key, module)),
        }
    }
    let new = missing.len() as u64;
    if !missing.is_empty() {
        // The long ones first, so that no process is left alone with one in the end.
        missing.sort_by_key(|(key, module)| (std::cmp::Reverse(module.size), *key));
        let outcomes = run(transaction, interpreter, &missing, options)?;
        let pairs: Vec<_> = outcomes
            .iter()
            .map(|(key, outcome)| (*key, outcome.map_or(nothing(), |stored| stored.id)))
            .collect();
        index.put_derived(&pairs);
        done.extend(outcomes);
    }
    Ok(Compiled { bytecode: keys.iter().map(|key| done.get(key).copied().flatten()).collect(), new })
}

/// The bytecode of a source; none when it cannot be compiled.
type Outcome = Option<StoredBlob>;

/// Stands in the index for a source that cannot be compiled: no bytecode is empty.
fn nothing() -> BlobId {
    BlobId::of(b"")
}

/// What the index remembers, as far as the store still has it.
fn confirm(
    transaction: &Transaction,
    remembered: Vec<Option<BlobId>>,
) -> Result<Vec<Option<Outcome>>, StoreError> {
    let ids: Vec<BlobId> = remembered.iter().flatten().copied().filter(|id| *id != nothing()).collect();
    let mut sizes = transaction.has_blobs(&ids)?.into_iter();
    let mut outcome = |id: BlobId| match id == nothing() {
        true => Some(None),
        false => sizes.next().flatten().map(|size| Some(StoredBlob { id, size })),
    };
    Ok(remembered.into_iter().map(|id| id.and_then(&mut outcome)).collect())
}

fn key(module: &Module, interpreter: &Interpreter) -> [u8; 32] {
    let name = module.path.file_name().unwrap_or_default();
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(module.blob.as_bytes());
    for text in [interpreter.implementation.as_bytes(), interpreter.version.as_bytes(), name] {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text);
    }
    *hasher.finalize().as_bytes()
}

/// The time that Python sees for a source, in whole seconds as bytecode holds it.
fn modified(blob: &BlobId) -> u32 {
    let (seconds, nanoseconds) = content_mtime(blob);
    // Python has the time as a floating-point number, which can round up to the next second.
    let time = seconds as f64 + 1e-9 * f64::from(nanoseconds);
    time as i64 as u32
}

/// Compiles `jobs` with one process for each processor.
fn run(
    transaction: &Transaction,
    interpreter: &Interpreter,
    jobs: &[([u8; 32], &Module)],
    options: &PythonOptions<'_>,
) -> Result<Vec<([u8; 32], Outcome)>, PythonError> {
    let directory: PathBuf = transaction.scratch_dir()?.join("compile");
    fs::create_dir_all(&directory).map_err(|source| PythonError::io("make", &directory, source))?;
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let (next, finished, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let outcomes = Mutex::new(Vec::with_capacity(jobs.len()));
    let work = || -> Result<(), PythonError> {
        let mut worker = Worker::new(interpreter, &directory);
        let mut own = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let Some((key, module)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            options.check_cancel()?;
            own.push((*key, one(transaction, &mut worker, module)?));
            let finished = finished.fetch_add(1, Ordering::Relaxed) + 1;
            if finished.is_multiple_of(STEP) || finished == jobs.len() {
                options.event(PythonEvent::Compiling { done: finished, total: jobs.len() });
            }
        }
        outcomes.lock().unwrap_or_else(|e| e.into_inner()).append(&mut own);
        Ok(())
    };
    let work = || work().inspect_err(|_| stop.store(true, Ordering::Relaxed));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..processors.min(jobs.len())).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(outcomes.into_inner().unwrap_or_else(|e| e.into_inner()))
}

fn one(transaction: &Transaction, worker: &mut Worker<'_>, module: &Module) -> Result<Outcome, PythonError> {
    let mut source = Vec::with_capacity(usize::try_from(module.size).unwrap_or(0));
    let read = transaction.open_blob(&module.blob)?.read_to_end(&mut source);
    read.map_err(|source| PythonError::io("read", module.path.as_path(), source))?;
    let name = module.path.file_name().unwrap_or_default();
    let Some(bytes) = worker.compile(name, &source, modified(&module.blob))? else { return Ok(None) };
    Ok(Some(StoredBlob { id: transaction.put_bytes(&bytes)?, size: bytes.len() as u64 }))
}
