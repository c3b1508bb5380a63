//! Failures of a ComfyUI: that it did not start, did not answer, or did not do what a prompt asked for.

use cvs_versions::comfy::{ClientError, JobError, RunError};

use super::{Exit, hint_of_io};

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
        RunError::Io { source, .. } => return hint_of_io(source),
        _ => return None,
    };
    Some(text.to_owned())
}

pub(super) fn of_client(error: &ClientError) -> Exit {
    match error {
        ClientError::Cancelled => Exit::Interrupted,
        ClientError::Address { .. }
        | ClientError::Unreachable { .. }
        | ClientError::Broken { .. }
        | ClientError::Timeout { .. }
        | ClientError::Status { .. }
        | ClientError::Unexpected { .. }
        | ClientError::Io { .. }
        | ClientError::Runtime { .. } => Exit::Failed,
    }
}

pub(super) fn hint_of_client(error: &ClientError) -> Option<String> {
    match error {
        ClientError::Io { source, .. } => hint_of_io(source),
        _ => None,
    }
}

pub(super) fn of_job(error: &JobError) -> Exit {
    match error {
        JobError::Cancelled => Exit::Interrupted,
        JobError::Client(error) => of_client(error),
        JobError::Died(error) => of_run(error),
        JobError::Rejected { .. }
        | JobError::Partial { .. }
        | JobError::Failed(_)
        | JobError::Interrupted { .. }
        | JobError::Unsuccessful
        | JobError::NoOutput
        | JobError::Lost
        | JobError::MissingFile { .. }
        | JobError::Gone { .. }
        | JobError::Silent { .. }
        | JobError::TimedOut { .. } => Exit::Failed,
    }
}

pub(super) fn hint_of_job(error: &JobError) -> Option<String> {
    let text = match error {
        JobError::Client(error) => return hint_of_client(error),
        JobError::Partial { .. } => "--allow-partial runs what can run",
        JobError::Silent { .. } => "COMFY_RESPOND_TIMEOUT, in seconds, gives it more time",
        JobError::NoOutput => "a workflow needs a node that saves or shows something, such as SaveImage",
        _ => return None,
    };
    Some(text.to_owned())
}
