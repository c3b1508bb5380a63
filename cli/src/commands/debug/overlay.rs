//! `cvs debug overlay`: any two directories as the lower and the upper layer of a mount, as mount(8) mounts an
//! overlayfs, so that suites made for overlay filesystems can run on ours.
//!
//! Called by one of the names in [`NAMES`], the program is this command: a link `/sbin/mount.cvs-overlay` makes
//! `mount -t cvs-overlay`, a link `cvs-overlay` in the PATH of mount.fuse3(8) makes `mount -t fuse.cvs-overlay`.
//!
//! ```text
//! UPPERDIR/           what docs/overlay.md calls upper/
//! WORKDIR/overlay/    the rest of the overlay's directory; its upper is a symlink to UPPERDIR
//! WORKDIR/home/       the store, into which LOWERDIR is ingested at each mount, unless store=DIR names another
//! ```

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use cvs_fusefs::MountError;
use cvs_store::{Graft, Intake, RelPath, Store, StoreError, TreeOptions, View};

use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::logs;
use crate::mounts::{self, MountsError, Serve};

/// By these names the program is called as a helper of mount(8).
const NAMES: [&str; 4] = ["cvs-overlay", "mount.cvs", "mount.cvs-overlay", "mount.fuse.cvs-overlay"];
/// What stands for the version, in logs and in /proc/mounts.
const LABEL: &str = "overlay";
/// How long the daemon of the mount before may take to end.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);
/// Options of mount(8) and fstab(5) that are for others, or that ask for what is so anyway.
const IGNORED: [&str; 18] = [
    "async",
    "atime",
    "auto",
    "defaults",
    "default_permissions",
    "dev",
    "diratime",
    "exec",
    "noatime",
    "noauto",
    "nodiratime",
    "nofail",
    "nouser",
    "relatime",
    "rw",
    "suid",
    "_netdev",
    "lazytime",
];

#[derive(Debug, Args)]
pub(super) struct OverlayArgs {
    /// The source, which is not used, and the mountpoint, which is there.
    #[arg(value_name = "[SOURCE] DIR", required = true, num_args = 1..=2)]
    places: Vec<PathBuf>,

    /// Options: lowerdir=DIR, upperdir=DIR, workdir=DIR, store=DIR, ro, allow_other. A backslash goes before a comma,
    /// a colon or a backslash in a path.
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<OsString>,

    /// The type that mount(8) was given; taken and not used, as the next three.
    #[arg(short = 't', hide = true)]
    kind: Option<String>,
    #[arg(short = 'N', hide = true)]
    namespace: Option<PathBuf>,
    #[arg(short = 's', hide = true)]
    sloppy: bool,
    #[arg(short = 'n', hide = true)]
    no_mtab: bool,

    /// Check the options and mount nothing, as mount -f.
    #[arg(short = 'f')]
    fake: bool,

    /// The log of this process, which is a daemon.
    #[arg(long, value_name = "FILE", hide = true)]
    log: Option<PathBuf>,
}

/// What `-o` says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    lower: Option<PathBuf>,
    upper: Option<PathBuf>,
    work: Option<PathBuf>,
    store: Option<PathBuf>,
    read_only: bool,
    allow_other: bool,
}

/// The command line that the program was called with; by the name of a helper, it is that of this command.
pub(crate) fn command_line(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments.first().and_then(|program| Path::new(program).file_name()).unwrap_or_default();
    if NAMES.iter().any(|helper| name == *helper) {
        arguments.splice(1..1, ["debug", "overlay"].map(OsString::from));
    }
    arguments
}

pub(super) fn run(context: &Context, args: &OverlayArgs) -> Result<Exit, CliError> {
    let options = parse(&args.options)?;
    let [lower, upper, work] =
        [("lowerdir", &options.lower), ("upperdir", &options.upper), ("workdir", &options.work)].map(
            |(name, value)| match value {
                Some(path) => {
                    std::fs::canonicalize(path).map_err(|e| MountsError::io("resolve", path)(e).into())
                }
                None => Err(CliError::Usage(format!("-o {name}=DIR is missing"))),
            },
        );
    let (lower, upper, work) = (lower?, upper?, work?);
    let mountpoint = args.places.last().cloned().unwrap_or_default();
    let mountpoint =
        std::fs::canonicalize(&mountpoint).map_err(|e| MountsError::io("resolve", mountpoint)(e))?;
    let device =
        |path: &Path| std::fs::metadata(path).map(|m| m.dev()).map_err(MountsError::io("look at", path));
    if device(&upper)? != device(&work)? {
        return Err(CliError::Usage("upperdir and workdir are not on the same filesystem".to_owned()));
    }
    if args.fake {
        return Ok(Exit::Ok);
    }
    let home = options.store.clone().unwrap_or_else(|| work.join("home"));
    if args.log.is_some() {
        nix::unistd::setsid().map_err(|errno| CliError::Signals(errno.into()))?;
        let overlay = overlay_directory(&work, &upper)?;
        return serve(context, &options, &home, &lower, overlay, mountpoint, args.log.clone());
    }
    let log = logs::path(&home, &format!("mount-{LABEL}"));
    let mut line =
        ["--no-progress", "-v", "--color", "never", "debug", "overlay"].map(OsString::from).to_vec();
    line.push(mountpoint.into());
    line.extend(["-o".into(), options.shown(&lower, &upper, &work, &home)]);
    mounts::launch(line, &log, LABEL)?;
    Ok(Exit::Ok)
}

/// Ingests the lower layer and serves the mount until it is taken down.
fn serve(
    context: &Context,
    options: &Options,
    home: &Path,
    lower: &Path,
    overlay: PathBuf,
    mountpoint: PathBuf,
    log: Option<PathBuf>,
) -> Result<Exit, CliError> {
    let store = Store::open(home)?;
    let txn = store.begin(LABEL)?;
    let tree = TreeOptions {
        intake: Intake::Copy,
        exclude: &|_| false,
        progress: &|_| {},
        cancel: context.cancel(),
    };
    let (manifest, _) = txn.put_tree(lower, &tree)?;
    txn.commit()?;
    let grafts = [Graft { path: RelPath::root(), manifest, label: LABEL.to_owned() }];
    let serve = Serve {
        version: LABEL.to_owned(),
        mountpoint,
        read_only: options.read_only,
        ephemeral: false,
        overlay,
        allow_other: options.allow_other || nix::unistd::geteuid().is_root(),
        threads: std::thread::available_parallelism().map_or(4, |n| n.get().clamp(4, 16)),
        // umount(8) takes one mount, not the two that a models connection makes.
        passthrough: false,
        log,
    };
    let begin = Instant::now();
    loop {
        let view = View::compose(&store, &grafts)
            .map_err(|error| StoreError::io("read", lower, std::io::Error::other(error)))?;
        match mounts::serve(&serve, &store, view, context.cancel(), |_| Ok(()), |_| mounts::say_ready()) {
            // umount(8) does not wait for the daemon of the mount before.
            Err(CliError::Mount(MountError::OverlayBusy { .. })) if begin.elapsed() < PATIENCE => {
                std::thread::sleep(POLL);
            }
            served => return served.map(|()| Exit::Ok),
        }
    }
}

/// The directory of the overlay, with `upper` as its upper layer. A workdir stays with its upperdir: what it has of
/// changes that were cut off is about that one.
fn overlay_directory(work: &Path, upper: &Path) -> Result<PathBuf, CliError> {
    let directory = work.join("overlay");
    let link = directory.join("upper");
    std::fs::create_dir_all(&directory).map_err(MountsError::io("create", &directory))?;
    match std::os::unix::fs::symlink(upper, &link) {
        Ok(()) => Ok(directory),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let known = std::fs::read_link(&link).map_err(MountsError::io("read", &link))?;
            if known != upper {
                let (work, known) = (work.display(), known.display());
                return Err(CliError::Usage(format!("workdir {work} is that of another upperdir, {known}")));
            }
            Ok(directory)
        }
        Err(error) => Err(MountsError::io("create", &link)(error).into()),
    }
}

impl Options {
    /// The options in the words of `-o`, for the daemon.
    fn shown(&self, lower: &Path, upper: &Path, work: &Path, home: &Path) -> OsString {
        let mut out = Vec::new();
        for (name, path) in [("lowerdir", lower), ("upperdir", upper), ("workdir", work), ("store", home)] {
            out.extend_from_slice(format!("{name}=").as_bytes());
            for byte in path.as_os_str().as_bytes() {
                if b",:\\".contains(byte) {
                    out.push(b'\\');
                }
                out.push(*byte);
            }
            out.push(b',');
        }
        out.extend_from_slice(if self.read_only { b"ro" } else { b"rw" });
        if self.allow_other {
            out.extend_from_slice(b",allow_other");
        }
        OsString::from_vec(out)
    }
}

fn parse(given: &[OsString]) -> Result<Options, CliError> {
    let mut options = Options::default();
    for option in
        given.iter().flat_map(|text| split(text.as_bytes(), b',')).filter(|option| !option.is_empty())
    {
        let (name, value) = match option.iter().position(|b| *b == b'=') {
            Some(at) => (option.get(..at).unwrap_or_default(), option.get(at + 1..)),
            None => (&*option, None),
        };
        let path = |value: &[u8]| Some(PathBuf::from(OsStr::from_bytes(&unescaped(value))));
        match (name, value) {
            (b"lowerdir", Some(value)) => {
                if split(value, b':').len() > 1 {
                    let several = "lowerdir names several directories; only one is supported";
                    return Err(CliError::Usage(several.to_owned()));
                }
                options.lower = path(value);
            }
            (b"upperdir", Some(value)) => options.upper = path(value),
            (b"workdir", Some(value)) => options.work = path(value),
            (b"store", Some(value)) => options.store = path(value),
            (b"ro", None) => options.read_only = true,
            (b"allow_other", None) => options.allow_other = true,
            (name, None) if IGNORED.iter().any(|ignored| name == ignored.as_bytes()) => {}
            (name, _) if name.starts_with(b"x-") || name == b"comment" => {}
            _ => {
                let shown = String::from_utf8_lossy(&option).into_owned();
                return Err(CliError::Usage(format!("there is no mount option '{shown}'")));
            }
        }
    }
    Ok(options)
}

/// The parts between separators that no backslash precedes; the backslashes stay.
fn split(text: &[u8], separator: u8) -> Vec<Vec<u8>> {
    let (mut parts, mut escaped) = (vec![Vec::new()], false);
    for byte in text {
        if *byte == separator && !escaped {
            parts.push(Vec::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(*byte);
        }
        escaped = *byte == b'\\' && !escaped;
    }
    parts
}

fn unescaped(text: &[u8]) -> Vec<u8> {
    let (mut out, mut bytes) = (Vec::with_capacity(text.len()), text.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => out.extend(bytes.next()),
            byte => out.push(*byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_are_known_by_their_names() {
        let line = |args: &[&str]| command_line(args.iter().map(OsString::from).collect());
        let helper = ["/sbin/mount.cvs-overlay", "none", "/mnt", "-o", "rw"];
        assert_eq!(
            line(&helper),
            ["/sbin/mount.cvs-overlay", "debug", "overlay", "none", "/mnt", "-o", "rw"]
        );
        assert_eq!(line(&["cvs-overlay"]), ["cvs-overlay", "debug", "overlay"]);
        for other in [&["/usr/bin/cvs", "list"][..], &["mount.fuse", "x"], &[]] {
            assert_eq!(line(other), *other);
        }
    }

    #[test]
    fn options_are_read_and_told_to_the_daemon() {
        let given = ["rw,lowerdir=/a\\:b,upperdir=/c\\,d", "workdir=/e\\\\,x-systemd.automount,ro"];
        let options = parse(&given.map(OsString::from)).unwrap();
        let [lower, upper, work] = ["/a:b", "/c,d", "/e\\"].map(PathBuf::from);
        let expected = Options {
            lower: Some(lower.clone()),
            upper: Some(upper.clone()),
            work: Some(work.clone()),
            store: None,
            read_only: true,
            allow_other: false,
        };
        assert_eq!(options, expected);
        let told = options.shown(&lower, &upper, &work, Path::new("/s"));
        assert_eq!(parse(&[told]).unwrap(), Options { store: Some("/s".into()), ..expected });
        let refused = [
            ("lowerdir=/a:/b", "lowerdir names several directories; only one is supported"),
            ("metacopy=on", "there is no mount option 'metacopy=on'"),
            ("ro=1", "there is no mount option 'ro=1'"),
        ];
        for (option, words) in refused {
            assert_eq!(parse(&[option.into()]).unwrap_err().to_string(), words);
        }
    }
}
