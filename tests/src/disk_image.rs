//! A filesystem of its own in a file, through a loop device: a disk that can be cut off, damaged and checked. It is an
//! ext4, or an XFS where files are to share blocks.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::Missing;
use crate::wait::wait_until;

/// How long a filesystem may stay in use that no process is seen to use.
const PATIENCE: Duration = Duration::from_secs(60);

/// A disk. Dropping it unmounts it and gives the loop device back; the file stays.
pub struct DiskImage {
    file: PathBuf,
    device: PathBuf,
    kind: &'static str,
    mounted: Option<PathBuf>,
}

impl DiskImage {
    /// A new disk in a new file of so many bytes.
    pub fn make(file: &Path, bytes: u64) -> Result<DiskImage, Missing> {
        let made = File::create(file).and_then(|file| file.set_len(bytes));
        made.unwrap_or_else(|error| panic!("making {}: {error}", file.display()));
        DiskImage::format(file)?;
        DiskImage::attach(file)
    }

    /// A new disk of so many bytes, at least 300 MiB, on which files can share blocks.
    pub fn make_sharing(file: &Path, bytes: u64) -> Result<DiskImage, Missing> {
        let made = File::create(file).and_then(|file| file.set_len(bytes));
        made.unwrap_or_else(|error| panic!("making {}: {error}", file.display()));
        run(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(file))?;
        let mut disk = DiskImage::attach(file)?;
        disk.kind = "xfs";
        Ok(disk)
    }

    /// Puts an empty ext4 into a file.
    pub fn format(file: &Path) -> Result<(), Missing> {
        // The whole of it at once: what is initialised later would be written while a test looks.
        let options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", options]).arg(file)).map(drop)
    }

    /// The disk in a file.
    pub fn attach(file: &Path) -> Result<DiskImage, Missing> {
        let said = run(Command::new("losetup").args(["--find", "--show"]).arg(file))?;
        Ok(DiskImage { file: file.to_owned(), device: said.trim().into(), kind: "ext4", mounted: None })
    }

    /// Mounts it at a directory, made when it is not there, with options of its filesystem.
    #[track_caller]
    pub fn mount(&mut self, at: &Path, options: &str) {
        fs::create_dir_all(at).unwrap_or_else(|error| panic!("making {}: {error}", at.display()));
        mount(Some(&self.device), at, Some(self.kind), MsFlags::empty(), Some(options))
            .unwrap_or_else(|error| panic!("mounting {}: {error}", self.device.display()));
        self.mounted = Some(at.to_owned());
    }

    /// Unmounts it; when this returns, the filesystem is no more. Panics with who has something open on it.
    #[track_caller]
    pub fn unmount(&mut self) {
        let Some(at) = self.mounted.take() else { return };
        // What a process had mapped goes with its address space, and whoever reads its environment, command line or maps
        // in /proc holds that, for some time after the process itself is gone.
        wait_until(PATIENCE, "a filesystem that no process uses can be unmounted", || {
            match umount2(&at, MntFlags::empty()) {
                Ok(()) => true,
                Err(Errno::EBUSY) => {
                    let users = users(&at);
                    assert!(users.is_empty(), "{} is used by {users:?}", at.display());
                    false
                }
                Err(error) => panic!("unmounting {}: {error}", at.display()),
            }
        });
        // Where others have copied the tree of mounts for themselves, the filesystem stays for as long as they do. It gives
        // the device back last, after what the kernel shows of it has gone.
        wait_until(PATIENCE, "an unmounted filesystem ends", || {
            let alone = File::options().read(true).custom_flags(OFlag::O_EXCL.bits()).open(&self.device);
            !self.state().exists() && alone.is_ok()
        });
    }

    /// What the kernel shows of the filesystem while it is mounted.
    fn state(&self) -> PathBuf {
        Path::new("/sys/fs").join(self.kind).join(self.device.file_name().unwrap_or_default())
    }

    /// Lets ext4 find an error, as on a disk that fails.
    #[track_caller]
    pub fn trigger_error(&self) {
        let path = self.state().join("trigger_fs_error");
        fs::write(&path, "1").unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
    }

    /// Checks and repairs it while it is not mounted; panics when it cannot be.
    #[track_caller]
    pub fn check(&self) {
        // 1: errors were corrected.
        let output =
            Command::new("e2fsck").args(["-f", "-p"]).arg(&self.device).output().expect("starting e2fsck");
        assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    }

    /// Unmounts it and gives the loop device back: nobody has the file open when this returns.
    #[track_caller]
    pub fn detach(mut self) {
        self.unmount();
        let name = self.device.file_name().unwrap_or_default().to_owned();
        drop(self);
        // Who else looked at the device, as udev does, gives it back last.
        let bound = Path::new("/sys/block").join(name).join("loop/backing_file");
        wait_until(PATIENCE, "a loop device is given back", || !bound.exists());
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

impl Drop for DiskImage {
    fn drop(&mut self) {
        if let Some(at) = self.mounted.take() {
            let _ = umount2(&at, MntFlags::MNT_DETACH);
        }
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).stderr(Stdio::null()).status();
    }
}

/// The processes that have something below a directory open, mapped, or as their place, and what it is.
fn users(dir: &Path) -> Vec<String> {
    let below = |path: &Path| path.starts_with(dir);
    let links = |process: &Path| {
        let fds = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
        let places = ["cwd", "root", "exe"].map(|name| process.join(name));
        fds.chain(places).filter_map(|link| fs::read_link(link).ok()).collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        let what = links(&process).into_iter().filter(|path| below(path));
        found.extend(what.map(|path| format!("{} {} {}", process.display(), name.trim(), path.display())));
        let maps = fs::read_to_string(process.join("maps")).unwrap_or_default();
        if maps.contains(&*dir.to_string_lossy()) {
            found.push(format!("{} {} maps", process.display(), name.trim()));
        }
    }
    found
}

fn run(command: &mut Command) -> Result<String, Missing> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| Missing(format!("{program} ({error})")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Missing(format!("{program} that works here, which may need root ({})", said.trim())))
}
