//! Where benchmarks and comparisons work: a directory below the target directory, a `cvs` with a home of its own, the
//! overlay filesystems that stand beside it, and the mounts that must be gone afterwards whatever happened.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Doing, Outcome};
use crate::project::Project;
use crate::shell;

pub(crate) struct Lab {
    root: PathBuf,
    cvs: PathBuf,
    tools: PathBuf,
    dir: PathBuf,
    quick: bool,
    runs: usize,
    version: Option<String>,
    parts: Vec<String>,
    gib: Option<u64>,
}

impl Lab {
    /// Builds the `cvs` to work with, unless CVS_BIN names one: an older one, for example.
    pub(crate) fn build(project: &Project) -> Outcome {
        if std::env::var_os("CVS_BIN").is_some() {
            return Ok(());
        }
        let args = ["build", "--release", "--package", "cvs-cli", "--bin", "cvs"];
        shell::run(shell::cargo(project).args(args))
    }

    /// Opens `name` in the target directory, and takes away what a killed run left there.
    pub(crate) fn open(project: &Project, name: &str, quick: bool) -> Outcome<Lab> {
        let dir = project.target().join(name);
        fs::create_dir_all(&dir).doing(|| format!("making {}", dir.display()))?;
        let dir = dir.canonicalize().doing(|| format!("resolving {}", dir.display()))?;
        let cvs = std::env::var_os("CVS_BIN").map_or_else(|| project.release("cvs"), PathBuf::from);
        let (root, tools) = (project.root().to_path_buf(), project.tools().join("bin"));
        let lab = Lab { root, cvs, tools, dir, quick, runs: 1, version: None, parts: Vec::new(), gib: None };
        lab.clear();
        Ok(lab)
    }

    /// Has everything measured `runs` times, not once.
    pub(crate) fn with_runs(mut self, runs: usize) -> Lab {
        self.runs = runs;
        self
    }

    /// Has a version of the person's measured, where a benchmark can.
    pub(crate) fn with_version(mut self, version: Option<String>) -> Lab {
        self.version = version;
        self
    }

    /// Has only these parts measured of a benchmark that has parts.
    pub(crate) fn with_parts(mut self, parts: Vec<String>) -> Lab {
        self.parts = parts;
        self
    }

    /// Has a benchmark whose size is the caller's choice take this many GiB.
    pub(crate) fn with_gib(mut self, gib: Option<u64>) -> Lab {
        self.gib = gib;
        self
    }

    /// The size that the caller chose.
    pub(crate) fn gib(&self) -> Option<u64> {
        self.gib
    }

    /// The parts to measure; all of them, when it is empty.
    pub(crate) fn parts(&self) -> &[String] {
        &self.parts
    }

    /// The version of the person's to measure.
    pub(crate) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The checkout.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where set-up puts programs.
    pub(crate) fn tools(&self) -> &Path {
        &self.tools
    }

    /// A program that set-up brings, else the one in PATH.
    pub(crate) fn tool(&self, name: &str) -> PathBuf {
        let own = self.tools.join(name);
        if own.is_file() { own } else { name.into() }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A directory for one piece of work, gone after it.
    pub(crate) fn work(&self, name: &str) -> Outcome<PathBuf> {
        let dir = self.dir.join("work").join(name);
        fs::create_dir_all(&dir).doing(|| format!("making {}", dir.display()))?;
        Ok(dir)
    }

    /// The CVS_HOME that [`Lab::cvs`] works with.
    pub(crate) fn home(&self) -> PathBuf {
        self.dir.join("work").join("home")
    }

    pub(crate) fn is_quick(&self) -> bool {
        self.quick
    }

    /// `full`, or a small stand-in for it in a quick run.
    pub(crate) fn size(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }

    pub(crate) fn runs(&self) -> usize {
        self.runs
    }

    /// The release `cvs`, on the laboratory's home, without the caller's configuration, and without Python
    /// environments, which only some measurements are about.
    pub(crate) fn cvs(&self) -> Command {
        let mut cmd = self.cvs_with_python();
        cmd.env("CVS_SKIP_PYTHON", "1");
        cmd
    }

    /// The same with Python environments.
    pub(crate) fn cvs_with_python(&self) -> Command {
        let mut cmd = self.own_cvs();
        cmd.env("CVS_HOME", self.home()).env("CVS_UV", self.tool("uv")).env_remove("CVS_SKIP_PYTHON");
        for name in ["CVS_VERSIONS_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "RUST_LOG"] {
            cmd.env_remove(name);
        }
        cmd.env("HOME", self.dir.join("work"));
        cmd
    }

    /// The release `cvs` on the person's own home.
    pub(crate) fn own_cvs(&self) -> Command {
        self.command(&self.cvs)
    }

    /// A peer's program, in the laboratory.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut cmd = Command::new(program);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs =
            std::env::split_paths(&path).chain([self.tools.clone(), "/usr/sbin".into(), "/sbin".into()]);
        if let Ok(joined) = std::env::join_paths(dirs) {
            cmd.env("PATH", joined);
        }
        // What would keep Python from writing bytecode, or have it read other modules, is not measured.
        for name in ["PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONPATH", "PYTHONHOME"] {
            cmd.env_remove(name);
        }
        cmd.current_dir(&self.dir).stdin(std::process::Stdio::null());
        cmd
    }

    /// A line of shell, for what is a pipeline in real life too. `"$1"` and so on are `args`.
    pub(crate) fn sh(&self, line: &str, args: &[&Path]) -> Command {
        let mut cmd = self.command("bash");
        cmd.args(["-euo", "pipefail", "-c", line, "bash"]).args(args);
        cmd
    }

    /// Empties a directory that a peer wrote into, and makes it if need be.
    pub(crate) fn empty(&self, dir: &Path) -> Outcome {
        if dir.exists() {
            fs::remove_dir_all(dir).doing(|| format!("emptying {}", dir.display()))?;
        }
        fs::create_dir_all(dir).doing(|| format!("making {}", dir.display()))
    }

    /// A directory with a filesystem of its own, of the type that holds most of what people have. Needs root.
    pub(crate) fn filesystem(&self, name: &str) -> Outcome<PathBuf> {
        /// More than anybody writes; what is not written takes no room.
        const SIZE: u64 = 16 << 30;
        let at = self.work(name)?;
        let image = at.with_extension("img");
        let file = fs::File::create(&image).doing(|| format!("making {}", image.display()))?;
        file.set_len(SIZE).doing(|| format!("growing {}", image.display()))?;
        shell::quiet(self.command("mkfs.ext4").arg("-q").arg(&image))?;
        shell::quiet(self.command("mount").args(["-o", "loop"]).arg(&image).arg(&at))?;
        Ok(at)
    }

    /// Mounts a version and says where.
    pub(crate) fn mount(&self, id: &str, options: &[&str]) -> Outcome<PathBuf> {
        let at = self.work("mnt")?.join(id);
        fs::create_dir_all(&at).doing(|| format!("making {}", at.display()))?;
        shell::quiet(self.cvs().args(["mount", id]).arg(&at).args(options))?;
        Ok(at)
    }

    pub(crate) fn umount(&self, at: &Path) -> Outcome {
        shell::quiet(self.cvs().arg("umount").arg(at))
    }

    /// Mounts kernel overlayfs, empty, over `lower`, and says where. Needs root.
    pub(crate) fn overlayfs(&self, lower: &Path) -> Outcome<PathBuf> {
        let (at, options) = self.overlay("overlayfs", lower)?;
        shell::quiet(self.command("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&at))?;
        Ok(at)
    }

    /// Mounts fuse-overlayfs, empty, over `lower`, and says where.
    pub(crate) fn fuse_overlayfs(&self, lower: &Path) -> Outcome<PathBuf> {
        let (at, options) = self.overlay("fuse-overlayfs", lower)?;
        shell::quiet(self.command("fuse-overlayfs").args(["-o", &options]).arg(&at))?;
        Ok(at)
    }

    /// An empty mount point with an upper and a work directory beside it, and the options that join them to `lower`.
    fn overlay(&self, name: &str, lower: &Path) -> Outcome<(PathBuf, String)> {
        let dir = self.work(name)?;
        let [upper, work, at] = ["upper", "work", "mnt"].map(|part| dir.join(part));
        for part in [&upper, &work, &at] {
            self.empty(part)?;
        }
        let options =
            format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        Ok((at, options))
    }

    /// Takes away every mount below the laboratory and the files of the work, never what is kept between runs. What cannot be
    /// taken away is told: it would falsify what runs next.
    pub(crate) fn clear(&self) {
        let mounts = mounts_below(&self.dir);
        for at in mounts.iter().rev() {
            if !shell::succeeds(self.command("umount").arg(at))
                && !shell::succeeds(self.command("umount").arg("-l").arg(at))
            {
                eprintln!("warning: {} stays mounted", at.display());
            }
        }
        let work = self.dir.join("work");
        if work.exists()
            && mounts_below(&self.dir).is_empty()
            && let Err(e) = fs::remove_dir_all(&work)
        {
            eprintln!("warning: {} stays: {e}", work.display());
        }
    }
}

/// Mount points below `dir`, outer ones first.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let mut found: Vec<PathBuf> =
        points.map(|p| PathBuf::from(unescape(p))).filter(|p| p.starts_with(dir) && p != dir).collect();
    found.sort();
    found
}

/// mountinfo writes space, tab, newline and backslash in octal.
fn unescape(point: &str) -> String {
    [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")]
        .iter()
        .fold(point.to_owned(), |text, (from, to)| text.replace(from, to))
}
