//! One workflow, run once by `cvs run-handler`: what it is made of, how it is followed, where its outputs go, and what
//! is written down about it.

mod deliver;
mod inputs;
mod progress;
mod record;
mod workflow;

use std::io;
use std::path::PathBuf;

use cvs_versions::bucket::BucketError;
use cvs_versions::comfy::{ClientError, Complaint, JobError};
use cvs_versions::fetch::FetchError;
use cvs_versions::workflow::WorkflowError;

pub(crate) use deliver::{Delivery, Destination};
pub(crate) use inputs::{Inputs, Uploads};
pub(crate) use progress::Follower;
pub(crate) use record::{InputRecord, OutputRecord, RunRecord, Status, random, seconds};
pub(crate) use workflow::{Source, prepare};

use crate::error::{Exit, hint_of_io};

/// Why a workflow brought nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobsError {
    /// The workflow itself.
    #[error("{name}: {source}")]
    Workflow {
        /// Where it is from.
        name: String,
        /// What is wrong.
        source: Box<WorkflowError>,
    },
    /// A change that was asked for.
    #[error("{argument}: {source}")]
    Change {
        /// The argument.
        argument: String,
        /// What is wrong.
        source: Box<WorkflowError>,
    },
    /// Neither the command line nor the spec names a workflow.
    #[error("{version} has no workflow of its own, and none was named")]
    NoWorkflow {
        /// The version.
        version: String,
    },
    /// The spec's workflow is not there.
    #[error("the workflow of {version} is neither {} nor {}", beside.display(), inside.display())]
    WorkflowMissing {
        /// The version.
        version: String,
        /// Beside the spec.
        beside: PathBuf,
        /// In the version.
        inside: PathBuf,
    },
    /// Something from the web.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A bucket.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The run.
    #[error(transparent)]
    Job(Box<JobError>),
    /// A call of the operating system failed.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl From<JobError> for JobsError {
    fn from(error: JobError) -> Self {
        Self::Job(Box::new(error))
    }
}

impl JobsError {
    pub(crate) fn io(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { op, path, source }
    }

    /// Whether the person stopped it.
    pub(crate) fn is_interrupted(&self) -> bool {
        match self {
            Self::Fetch(FetchError::Cancelled)
            | Self::Bucket(BucketError::Cancelled)
            | Self::Client(ClientError::Cancelled) => true,
            Self::Job(error) => {
                matches!(**error, JobError::Cancelled | JobError::Client(ClientError::Cancelled))
            }
            _ => false,
        }
    }

    /// The code that the process ends with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            _ if self.is_interrupted() => Exit::Interrupted,
            Self::Change { .. } => Exit::Usage,
            _ => Exit::Failed,
        }
    }

    /// What to do next.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Workflow { source, .. } => match **source {
                WorkflowError::UnknownClasses { .. } => UNKNOWN_CLASS.to_owned(),
                WorkflowError::GroupNodes { .. } => {
                    "turn them into subgraphs in the editor, or save the workflow there in the API format".to_owned()
                }
                WorkflowError::WidgetCount { .. } | WorkflowError::WidgetValue { .. } => {
                    "open the workflow in this version's editor (`cvs run-ui`), look at that node, and save it again"
                        .to_owned()
                }
                _ => return None,
            },
            Self::NoWorkflow { .. } => {
                "name one with --workflow FILE, or as `workflow` in the spec".to_owned()
            }
            Self::WorkflowMissing { .. } => "name another with --workflow FILE".to_owned(),
            Self::Job(error) => match **error {
                JobError::Partial { .. } => {
                    "--allow-partial runs what can be run".to_owned()
                }
                JobError::Rejected { ref complaint, .. } if is_unknown_class(complaint) => UNKNOWN_CLASS.to_owned(),
                JobError::TimedOut { .. } => "--timeout gives it more time".to_owned(),
                JobError::Silent { .. } => "COMFY_RESPOND_TIMEOUT, in seconds, gives it more time".to_owned(),
                _ => return None,
            },
            Self::Bucket(
                BucketError::Settings { .. } | BucketError::Credentials { .. } | BucketError::Put { .. },
            ) => {
                "credentials come from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, \
                 AWS_ENDPOINT_URL; GOOGLE_APPLICATION_CREDENTIALS"
                    .to_owned()
            }
            Self::Fetch(FetchError::Runtime { source })
            | Self::Bucket(BucketError::Runtime { source })
            | Self::Client(ClientError::Runtime { source })
            | Self::Io { source, .. } => return hint_of_io(source),
            _ => return None,
        })
    }
}

const UNKNOWN_CLASS: &str = "add the nodes that bring such classes to `custom_nodes` of the spec; `cvs validate --run` \
                             tells nodes that could not be loaded";

/// Whether ComfyUI has no such class of node. Older commits have one kind for this and for nodes without any class.
fn is_unknown_class(complaint: &Complaint) -> bool {
    complaint.kind == "missing_node_type"
        || (complaint.kind == "invalid_prompt" && complaint.message.ends_with("does not exist."))
}
