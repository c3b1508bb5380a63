//! Failures of a ComfyUI that did not start, and of the server that takes jobs for it.

use cvs_versions::comfy::RunError;
use cvs_versions::serve::ServeError;

use super::Exit;
use super::hint::of_io;

pub(super) fn of_run(error: &RunError) -> Exit {
    match error {
        RunError::UnknownFlag { .. } | RunError::ReservedFlag { .. } => Exit::Usage,
        RunError::Cancelled => Exit::Interrupted,
        RunError::PortTaken { .. }
        | RunError::Listen { .. }
        | RunError::NoDirectoryFlag { .. }
        | RunError::Help { .. }
        | RunError::StartTimeout { .. }
        | RunError::Crashed { .. }
        | RunError::Unkillable { .. }
        | RunError::Io { .. } => Exit::Failed,
    }
}

pub(super) fn hint_of_run(error: &RunError) -> Option<String> {
    let text = match error {
        RunError::PortTaken { .. } => "choose another port with --port, or end what has it",
        RunError::Listen { .. } => "choose another address with --host, or another port with --port",
        RunError::StartTimeout { .. } => "COMFY_STARTUP_TIMEOUT, in seconds, gives it more time",
        RunError::Unkillable { .. } => {
            "it waits for the disk, the GPU or a network filesystem, which `dmesg` may name; a restart ends it"
        }
        RunError::Io { source, .. } => return of_io(source),
        _ => return None,
    };
    Some(text.to_owned())
}

pub(super) fn of_serve(error: &ServeError) -> Exit {
    match error {
        ServeError::Public { .. } | ServeError::Token { .. } => Exit::Usage,
        ServeError::Bind { .. } | ServeError::Runtime { .. } => Exit::Failed,
    }
}

pub(super) fn hint_of_serve(error: &ServeError) -> Option<String> {
    let text = match error {
        ServeError::Public { .. } => {
            "put one into CVS_SERVE_TOKEN or a file (--token-file), or say --without-token if everybody may"
        }
        ServeError::Token { .. } => "`openssl rand -hex 32` makes a good one",
        ServeError::Bind { .. } => "choose another port with --port, or another address with --host",
        ServeError::Runtime { source } => return of_io(source),
    };
    Some(text.to_owned())
}
