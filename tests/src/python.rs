//! A Python environment with the packages of our ComfyUI, made once for all tests and kept in the target directory.
//!
//! Its directory is named by a hash of the interpreter and of the requirements: another list, another environment. Who
//! finds none makes it under a file lock; a file written last says that it is whole. What our own ComfyUI needs comes
//! from the wheels that set-up has downloaded, never from the internet.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::Missing;
use crate::sandbox::target_dir;
use crate::wheels::TestWheels;

/// A Python environment.
#[derive(Clone, Debug)]
pub struct Python {
    dir: PathBuf,
}

impl Python {
    /// With what the core requires.
    pub fn for_core() -> Result<Python, Missing> {
        Python::with(&[])
    }

    /// With what the core and these nodes require.
    pub fn with(nodes: &[&str]) -> Result<Python, Missing> {
        let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("comfyui");
        let mut lists = vec![templates.join("core/requirements.txt")];
        lists.extend(nodes.iter().map(|name| templates.join("nodes").join(name).join("requirements.txt")));
        Python::make_once(&lists, Some(&TestWheels::find()?))
    }

    /// With what these requirements files list, each as pip reads it, from the index that pip is set to.
    pub fn with_requirements(lists: &[PathBuf]) -> Result<Python, Missing> {
        Python::make_once(lists, None)
    }

    fn make_once(lists: &[PathBuf], wheels: Option<&TestWheels>) -> Result<Python, Missing> {
        let interpreter = interpreter()?;
        let mut digest = Sha256::new();
        digest.update(&interpreter);
        for list in lists.iter().chain(wheels.map(|wheels| wheels.list()).as_ref()) {
            digest
                .update(fs::read(list).unwrap_or_else(|error| panic!("reading {}: {error}", list.display())));
        }
        let name: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let all = target_dir().join("test-python");
        fs::create_dir_all(&all).unwrap_or_else(|error| panic!("making {}: {error}", all.display()));
        let python = Python { dir: all.join(&name) };
        let lock = File::create(all.join(format!("{name}.lock"))).expect("making a lock file");
        lock.lock().expect("locking a file of one's own");
        let whole = python.dir.join("whole");
        if !whole.exists() {
            python.make(lists, wheels)?;
            fs::write(&whole, interpreter).expect("writing into the environment");
        }
        Ok(python)
    }

    /// The interpreter.
    pub fn program(&self) -> PathBuf {
        self.dir.join("bin/python")
    }

    fn make(&self, lists: &[PathBuf], wheels: Option<&TestWheels>) -> Result<(), Missing> {
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir)
                .unwrap_or_else(|error| panic!("removing {}: {error}", self.dir.display()));
        }
        run(Command::new(python()).args(["-m", "venv"]).arg(&self.dir))?;
        let mut install = Command::new(self.program());
        install.args(["-m", "pip", "install", "--quiet"]);
        if let Some(wheels) = wheels {
            install.args(["--no-index", "--no-cache-dir", "--find-links"]).arg(wheels.dir());
        }
        for list in lists {
            install.arg("-r").arg(list);
        }
        run(&mut install)
    }
}

fn python() -> std::ffi::OsString {
    std::env::var_os("CVS_TEST_PYTHON").unwrap_or_else(|| "python3".into())
}

/// Version and path of the interpreter, which tell environments apart.
fn interpreter() -> Result<Vec<u8>, Missing> {
    ask("import sys; print(sys.version, sys._base_executable)")
}

/// What the interpreter prints for a line of Python.
pub(crate) fn ask(line: &str) -> Result<Vec<u8>, Missing> {
    let mut command = Command::new(python());
    command.args(["-I", "-c", line]).stdin(Stdio::null());
    match command.output() {
        Ok(output) if output.status.success() => Ok(output.stdout),
        _ => Err(Missing("Python 3.10 or newer (apt-get install python3 python3-venv)".to_owned())),
    }
}

fn run(command: &mut Command) -> Result<(), Missing> {
    let output = command.stdin(Stdio::null()).output().expect("starting a program that was found");
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(Missing(format!("a Python environment: {command:?}: {}", String::from_utf8_lossy(&said).trim_end())))
}
