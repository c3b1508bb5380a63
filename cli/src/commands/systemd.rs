//! `cvs systemd`.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use clap::Args;
use cvs_versions::spec::{ReadOptions, VersionId};

use super::run_ui::HowArgs;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::runs::{self, Role};

/// What ComfyUI, unmounting and looking for who is left may take, with room.
const STOP: Duration = Duration::from_secs(60);
/// What reading the lock, checking it and mounting may take besides the start of ComfyUI.
const AROUND: Duration = Duration::from_secs(60);

/// Print a systemd unit that runs a version.
///
/// For the whole machine; with --user for one's own service manager:
///
///   cvs systemd VERSION --user > ~/.config/systemd/user/comfyui.service
///   systemctl --user enable --now comfyui
///
/// The unit runs exactly what is locked: after an edit of the spec, `cvs lock VERSION` and a restart of the service.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct SystemdArgs {
    /// The version.
    #[arg(value_name = "VERSION")]
    id: VersionId,

    /// For the service manager of a user, not for the machine's.
    #[arg(long)]
    user: bool,

    #[command(flatten)]
    how: HowArgs,

    /// Drop options of pip among the requirements with a warning, instead of refusing them.
    #[arg(long)]
    lenient: bool,

    /// Arguments for ComfyUI, behind those of the spec.
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

pub(crate) fn run(context: &Context, args: &SystemdArgs) -> Result<Exit, CliError> {
    let read = ReadOptions { lenient: args.lenient };
    context.versions_dir().read(&args.id, read)?;
    let workspace = context.workspace()?;
    let home = workspace.store().home();
    let versions = std::path::absolute(workspace.versions().path()).map_err(CliError::WorkingDirectory)?;
    let program = std::env::current_exe().map_err(runs::RunsError::io("find", "the program itself"))?;
    let options = args.how.options(Role::Ui, &args.args, args.lenient)?;

    let mut line: Vec<OsString> = [program.into(), "--home".into(), home.into()].into();
    // A directory of specs elsewhere has to be named; the usual one follows from the home.
    if versions != home.join("versions") {
        line.extend(["--versions-dir".into(), versions.into()]);
    }
    line.extend(["--no-progress", "--color", "never"].map(OsString::from));
    line.extend(options.command(&args.id));
    let line: Vec<String> = line.iter().map(|text| quoted(text).replace('$', "$$")).collect();

    let mut unit = String::new();
    let _ = write!(
        unit,
        "[Unit]\n\
         Description=ComfyUI, version {id} (cvs)\n\
         After=network-online.target\n\
         Wants=network-online.target\n\
         RequiresMountsFor={home}\n\
         \n\
         [Service]\n\
         # It says itself when ComfyUI answers, and when it stops.\n\
         Type=notify\n\
         ExecStart={line}\n\
         # ComfyUI first, by cvs, then the mount; whatever is left after that is killed.\n\
         KillMode=mixed\n\
         TimeoutStartSec={start}\n\
         TimeoutStopSec={stop}\n\
         Restart=on-failure\n\
         RestartSec=5\n\
         # 2 is a wrong command line, 3 a damaged version: neither heals by trying again.\n\
         RestartPreventExitStatus=2 3\n\
         {identity}\
         \n\
         [Install]\n\
         WantedBy={target}\n",
        id = args.id,
        home = quoted(home.as_os_str()),
        line = line.join(" "),
        start = (options.startup_timeout + AROUND).as_secs(),
        stop = STOP.as_secs(),
        identity = identity(args.user),
        target = if args.user { "default.target" } else { "multi-user.target" },
    );
    context.output().data(&unit)?;
    Ok(Exit::Ok)
}

/// A service of the machine runs as who asked for the unit, since the store is theirs.
fn identity(user: bool) -> String {
    let own = nix::unistd::geteuid();
    if user || own.is_root() {
        return String::new();
    }
    let name =
        nix::unistd::User::from_uid(own).ok().flatten().map_or_else(|| own.to_string(), |user| user.name);
    format!("User={name}\n")
}

/// A word of a list, as systemd.syntax(7) and systemd.unit(5) want it. In a command line `$` is to be doubled, too.
fn quoted(text: &OsStr) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+=:,@".contains(byte);
    let bytes = text.as_bytes();
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return text.to_string_lossy().into_owned();
    }
    let mut quoted = String::from("\"");
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', byte as char]),
            b'%' => quoted.push_str("%%"),
            b' '..=b'~' => quoted.push(byte as char),
            _ => drop(write!(quoted, "\\x{byte:02x}")),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_manager() {
        for (text, expected) in [
            ("/srv/cvs", "/srv/cvs"),
            ("", "\"\""),
            ("/a b", "\"/a b\""),
            ("100% \"$HOME\" \\", "\"100%% \\\"$HOME\\\" \\\\\""),
            ("ö", "\"\\xc3\\xb6\""),
        ] {
            assert_eq!(quoted(OsStr::new(text)), expected);
        }
    }
}
