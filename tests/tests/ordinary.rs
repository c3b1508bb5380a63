//! An ordinary user, who owns nothing here but a directory of their own.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command, Output, Stdio};

use cvs_tests::{LET_GO, Missing, TestEnvironment};
use nix::unistd::{Gid, Uid, chown, geteuid};

use crate::mounted::fuse;

/// The user and group, when this process is root.
pub(crate) const NOBODY: u32 = 65534;

/// Another such user, for whom what the first has is somebody else's.
pub(crate) const ANOTHER: u32 = 65533;

/// Runs commands as an ordinary user: as somebody else when this is root.
///
/// Where only root may open `/dev/fuse` they get, in a mount namespace of their own, one that is open to all, as it is
/// on the machines of people.
pub(crate) struct Ordinary {
    /// Keeps the namespace.
    namespace: Option<Child>,
    uid: u32,
}

impl Ordinary {
    /// Somebody who has yet to be given a place.
    pub(crate) fn new(env: &TestEnvironment) -> Result<Ordinary, Missing> {
        fuse()?;
        program("setpriv")?;
        open_to_all(env);
        let mode = fs::metadata("/dev/fuse").expect("looking at /dev/fuse").mode();
        if !geteuid().is_root() || mode & 0o006 == 0o006 {
            return Ok(Ordinary::in_this_namespace(NOBODY));
        }
        Ordinary::in_namespace(env, "")
    }

    /// Somebody in the mount namespace of this process.
    pub(crate) fn in_this_namespace(uid: u32) -> Ordinary {
        Ordinary { namespace: None, uid }
    }

    /// Somebody in a mount namespace of their own, which a script prepares as root.
    pub(crate) fn in_namespace(env: &TestEnvironment, prepare: &str) -> Result<Ordinary, Missing> {
        let mut command = env.command("unshare");
        command.args(["--mount", "--propagation=private", "sh", "-euc"]);
        command.arg(format!(
            "{LET_GO} mknod -m 666 fuse c 10 229; mount --bind fuse /dev/fuse; {prepare} echo ready; exec sleep 600"
        ));
        let mut child =
            command.stdout(Stdio::piped()).spawn().map_err(|error| Missing(format!("unshare ({error})")))?;
        let mut line = String::new();
        let pipe = child.stdout.take().expect("a pipe was asked for");
        BufReader::new(pipe).read_line(&mut line).expect("reading a pipe");
        if line == "ready\n" {
            return Ok(Ordinary { namespace: Some(child), uid: NOBODY });
        }
        child.wait().expect("waiting for a child");
        Err(Missing("/dev/fuse for ordinary users (mode 0666), or leave to make one".to_owned()))
    }

    /// Gives them a directory, `theirs`, with a home and a program to run, `cvs-program`, that they can get at.
    pub(crate) fn settle(&self, env: &mut TestEnvironment) {
        let binary = env.path("cvs-program");
        fs::copy(env.cvs([""]).into_command().get_program(), &binary).expect("copying cvs");
        for dir in ["theirs", "theirs/home", "theirs/mnt"] {
            fs::create_dir_all(env.path(dir)).expect("making a directory");
            if geteuid().is_root() {
                let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.uid));
                chown(&env.path(dir), Some(uid), Some(gid)).expect("giving a directory away");
            }
        }
        for name in
            ["HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"]
        {
            env.set_var(name, env.path("theirs/home"));
        }
    }

    /// Runs a command as another user who sees the same mounts, root included.
    pub(crate) fn run_as(&self, uid: u32, env: &TestEnvironment, program: &str, args: &[&str]) -> Output {
        self.command(uid, env, program, args).output().expect("starting a program")
    }

    /// Runs a command in the environment's root.
    pub(crate) fn run(&self, env: &TestEnvironment, program: impl AsRef<OsStr>, args: &[&str]) -> Output {
        self.command(self.uid, env, program, args).output().expect("starting a program")
    }

    /// Runs cvs, once they are settled, with a home of theirs.
    pub(crate) fn cvs(&self, env: &TestEnvironment, args: &[&str]) -> Output {
        self.run(env, env.path("cvs-program"), &[&["--home", "theirs/cvs"], args].concat())
    }

    fn command(&self, uid: u32, env: &TestEnvironment, program: impl AsRef<OsStr>, args: &[&str]) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(namespace) = &self.namespace {
            words.extend(["nsenter", "--target", &namespace.id().to_string(), "--mount"].map(Into::into));
        }
        // Who enters a namespace is in its root.
        words.extend(["sh", "-c", "cd \"$0\" && exec \"$@\""].map(Into::into));
        words.push(env.root().into());
        if geteuid().is_root() {
            let ids = [format!("--reuid={uid}"), format!("--regid={uid}")];
            words.push("setpriv".into());
            words.extend(ids.map(Into::into));
            words.push("--clear-groups".into());
        }
        words.push(program.as_ref().to_owned());
        words.extend(args.iter().map(Into::into));
        let mut command = env.command(&words[0]);
        command.args(&words[1..]);
        command
    }
}

impl Drop for Ordinary {
    fn drop(&mut self) {
        if let Some(child) = &mut self.namespace {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Temporary directories are closed to others.
pub(crate) fn open_to_all(env: &TestEnvironment) {
    fs::set_permissions(env.root(), Permissions::from_mode(0o755)).expect("changing a mode");
}

/// What a command that must succeed has printed.
#[track_caller]
pub(crate) fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether a program is there.
pub(crate) fn program(name: &str) -> Result<(), Missing> {
    let found = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.map(drop).map_err(|error| Missing(format!("{name} ({error})")))
}
