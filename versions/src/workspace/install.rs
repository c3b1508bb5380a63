//! Nodes whose `install.py` is run, because the spec says so: in the composed version, with an overlay of its own. What
//! it writes into the node's directory becomes part of the node; what it writes elsewhere is told and dropped. It is
//! run once for each content of the node, and never at all without being asked for.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use cvs_store::{Intake, ManifestId, RelPath, Transaction, TreeOptions, View};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::event::{Event, Why};
use super::lock::{compose_error, grafts};
use super::options::{LockOptions, Refreshed};
use super::{Workspace, store_error};
use crate::error::VersionsError;
use crate::spec::{Installed, Lock, LockedNode, Part, Spec, StaleReason};

const SCRIPT: &[u8] = b"install.py";
/// Between two looks at whether the script has ended.
const POLL: Duration = Duration::from_millis(50);
/// Marks the processes of one script in their environment, which one that leaves the process group keeps.
const TAG: &str = "CVS_INSTALL";
/// How long what a script left running may take to go when it is killed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes at the end of what a script printed that are kept for an error.
const TAIL: u64 = 4096;

/// Shows a view as a directory that can be written, for as long as `work` takes.
pub trait Sandbox: Sync {
    /// Runs `work` on the root of the view. What it writes goes below `scratch`, an empty directory. Returns the paths
    /// of the files that were written, sorted.
    ///
    /// # Errors
    /// Why the view cannot be shown; else, within, those of `work`.
    fn run(
        &self,
        view: View,
        scratch: &Path,
        work: &mut dyn FnMut(&Path) -> Result<(), VersionsError>,
    ) -> Result<Result<Vec<RelPath>, VersionsError>, String>;
}

impl Workspace {
    /// Fills in what the `install.py` of nodes made of them. All that `lock` names is committed.
    pub(super) fn install(
        &self,
        spec: &Spec,
        lock: &mut Lock,
        previous: Option<&Lock>,
        transaction: &Transaction,
        options: &LockOptions<'_>,
    ) -> Result<Vec<Refreshed>, VersionsError> {
        let mut refreshed = Vec::new();
        for (index, node) in spec.custom_nodes.iter().enumerate() {
            let Some(locked) = lock.custom_nodes.get(index).filter(|_| node.run_install) else { continue };
            let Some(source) = locked.locked.manifest else { continue };
            let failed = store_error(&spec.version_id, "keep what install.py made");
            let known = previous.and_then(|previous| previous.reusable_node(node)?.installed.as_ref());
            let known = known.filter(|known| known.of == source).map(|known| known.manifest);
            let manifest = match known {
                Some(known) if transaction.has_manifest(&known).map_err(&failed)? => known,
                _ => {
                    let tree = self.store.manifest(&source).map_err(&failed)?;
                    let has_script = tree.root().is_some_and(|root| tree.child(&root, SCRIPT).is_some());
                    match has_script {
                        true => {
                            let part = Part::Node(locked.path.to_string());
                            let why =
                                known.map_or(Why::Stale(StaleReason::NotInstalled), |_| Why::NotInStore);
                            (options.events)(Event::Installing { part: &part });
                            let made = self.run_script(spec, lock, index, transaction, options)?;
                            refreshed.push(Refreshed { part, why });
                            made
                        }
                        false => source,
                    }
                }
            };
            lock.custom_nodes[index].installed = Some(Installed { of: source, manifest });
        }
        Ok(refreshed)
    }

    fn run_script(
        &self,
        spec: &Spec,
        lock: &Lock,
        index: usize,
        transaction: &Transaction,
        options: &LockOptions<'_>,
    ) -> Result<ManifestId, VersionsError> {
        let id = &spec.version_id;
        let node = &lock.custom_nodes[index];
        let Some(sandbox) = options.sandbox else {
            return Err(VersionsError::NoSandbox { id: id.clone(), node: node.name.clone() });
        };
        let failed = store_error(id, "keep what install.py made");
        let view = View::compose(&self.store, &grafts(lock)).map_err(|error| compose_error(id, error))?;
        let scratch = transaction.scratch_dir().map_err(&failed)?.join(format!("install-{index}"));
        let io = |operation, path: &Path| {
            let (id, path) = (id.clone(), path.to_owned());
            move |source| VersionsError::Io { id, operation, path, source }
        };
        std::fs::create_dir(&scratch).map_err(io("create", &scratch))?;
        let log = scratch.with_extension("log");
        let mut manifest = None;
        let written = sandbox.run(view, &scratch, &mut |root| {
            let directory = root.join(node.path.as_path());
            let output = File::create(&log).map_err(io("create", &log))?;
            self.run_python(spec, node, root, &directory, output, &log, options)?;
            let tree = TreeOptions {
                intake: Intake::Copy,
                exclude: &|path| path.names().any(|name| name == b"__pycache__"),
                progress: &|_| {},
                cancel: options.cancel,
            };
            manifest = Some(transaction.put_tree(&directory, &tree).map_err(&failed)?.0);
            Ok(())
        });
        let written = written.map_err(|reason| VersionsError::Sandbox {
            id: id.clone(),
            node: node.name.clone(),
            reason,
        })??;
        let outside: Vec<RelPath> = written
            .into_iter()
            .filter(|path| !path.starts_with(&node.path) && !path.names().any(|name| name == b"__pycache__"))
            .collect();
        if !outside.is_empty() {
            (options.events)(Event::InstalledElsewhere { node: &node.name, paths: &outside });
        }
        manifest.ok_or(VersionsError::Cancelled)
    }

    #[allow(clippy::too_many_arguments, reason = "each is another thing; the only caller is above")]
    fn run_python(
        &self,
        spec: &Spec,
        node: &LockedNode,
        root: &Path,
        directory: &Path,
        output: File,
        log: &Path,
        options: &LockOptions<'_>,
    ) -> Result<(), VersionsError> {
        let python = root.join(".venv/bin/python");
        let failed = |reason: String| VersionsError::Install {
            id: spec.version_id.clone(),
            node: node.name.clone(),
            reason,
            tail: tail(log),
        };
        if python.symlink_metadata().is_err() {
            return Err(failed("the version has no Python environment to run it with".to_owned()));
        }
        let errors = output.try_clone().map_err(|error| failed(error.to_string()))?;
        let mut path = root.join(".venv/bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let tag = format!("{}-{:x}", std::process::id(), now.as_nanos());
        let mut child = Command::new(&python)
            .arg("install.py")
            .current_dir(directory)
            .envs(spec.env.iter().map(|(name, value)| (name, value)))
            .env("PATH", path)
            .env(TAG, &tag)
            .env("VIRTUAL_ENV", root.join(".venv"))
            // What ComfyUI-Manager gives to these scripts.
            .env("COMFYUI_PATH", root)
            .env("COMFYUI_FOLDERS_BASE_PATH", root)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|error| failed(format!("{} cannot be started: {error}", python.display())))?;
        let group = Pid::from_child(&child);
        let ended = wait(&mut child, options.cancel);
        // What the script left running would keep the version in use, and write into the node while it is taken in.
        let _ = kill_process_group(group, Signal::KILL);
        end_tagged(&tag);
        match ended {
            Ok(Some(status)) if status.success() => Ok(()),
            Ok(Some(status)) => Err(failed(format!("it ended with {status}"))),
            Ok(None) => {
                let _ = child.wait();
                Err(VersionsError::Cancelled)
            }
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// The end of the child; none when the caller cancels first.
fn wait(
    child: &mut std::process::Child,
    cancel: &AtomicBool,
) -> std::io::Result<Option<std::process::ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if cancel.load(Ordering::Relaxed) {
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// Kills every process with this tag, and those that they start meanwhile.
fn end_tagged(tag: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = tagged(tag);
        if left.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            tracing::warn!(?left, "processes that install.py started cannot be ended");
            return;
        }
        for pid in left {
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(POLL / 10);
    }
}

fn tagged(tag: &str) -> Vec<Pid> {
    let wanted = format!("{TAG}={tag}");
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let has_tag = |path: &Path| {
        // That of a zombie is empty.
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|entry| entry == wanted.as_bytes())
    };
    entries
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?).map(|pid| (entry, pid)))
        .filter(|(entry, _)| has_tag(&entry.path()))
        .map(|(_, pid)| pid)
        .collect()
}

/// The end of a log, which may be of any length.
fn tail(log: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(log) {
        let begin = file.metadata().map_or(0, |metadata| metadata.len().saturating_sub(TAIL));
        let _ = file.seek(SeekFrom::Start(begin)).and_then(|_| file.take(TAIL).read_to_end(&mut bytes));
    }
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_the_group_is_ended_as_well() {
        let tag = format!("test-{}", std::process::id());
        let mut shell = Command::new("sh");
        let script = "setsid sh -c 'sleep 600 & sleep 600' & wait";
        let mut child = shell.args(["-c", script]).env(TAG, &tag).process_group(0).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while tagged(&tag).len() < 4 {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        kill_process_group(Pid::from_child(&child), Signal::KILL).unwrap();
        child.wait().unwrap();
        assert!(!tagged(&tag).is_empty(), "the group was all");
        end_tagged(&tag);
        assert_eq!(tagged(&tag), []);
    }

    #[test]
    fn of_a_huge_log_the_end_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        // More than there is memory, without taking any of the disk.
        let mut file = File::create(&log).unwrap();
        file.set_len(1 << 40).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        std::io::Write::write_all(&mut file, b"the end\n").unwrap();
        let end = tail(&log);
        assert_eq!((end.len(), end.trim_start_matches('\0')), (TAIL as usize - 1, "the end"));
        assert_eq!(tail(&dir.path().join("none")), "");
    }
}
