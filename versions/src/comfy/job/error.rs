//! Why a prompt brought no outputs.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::super::client::ClientError;
use super::super::error::{RunError, lines};
use super::super::outputs::OutputFile;

/// What is wrong with one node of a prompt, as the server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeProblem {
    /// The node's id.
    pub node: String,
    /// Its class.
    pub class_type: String,
    /// Each thing that is wrong.
    pub errors: Vec<Complaint>,
}

/// One thing that is wrong, as the server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Complaint {
    /// Its kind: `value_not_in_list`, `required_input_missing`, ….
    #[serde(rename = "type")]
    pub kind: String,
    /// In words.
    pub message: String,
    /// Of which input, and what was found.
    pub details: String,
}

impl Complaint {
    pub(super) fn read(value: &Value) -> Complaint {
        let field = |key: &str| value[key].as_str().unwrap_or_default().trim().to_owned();
        Complaint { kind: field("type"), message: field("message"), details: field("details") }
    }
}

impl NodeProblem {
    /// Reads `node_errors`.
    pub(super) fn read_all(node_errors: &Value) -> Vec<NodeProblem> {
        let problem = |(node, value): (&String, &Value)| NodeProblem {
            node: node.clone(),
            class_type: value["class_type"].as_str().unwrap_or_default().to_owned(),
            errors: value["errors"].as_array().into_iter().flatten().map(Complaint::read).collect(),
        };
        node_errors.as_object().into_iter().flatten().map(problem).collect()
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = if self.message.is_empty() { &self.kind } else { &self.message };
        f.write_str(message)?;
        if self.details.is_empty() || self.details == *message {
            Ok(())
        } else {
            write!(f, ": {}", self.details)
        }
    }
}

impl fmt::Display for NodeProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} ({}): ", self.node, self.class_type)?;
        let errors: Vec<String> = self.errors.iter().map(Complaint::to_string).collect();
        f.write_str(&errors.join("; "))
    }
}

/// An exception in a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeFailure {
    /// The node's id.
    pub node: String,
    /// Its class.
    pub class_type: String,
    /// The exception's class.
    pub exception: String,
    /// What it says.
    pub message: String,
    /// Where it was raised, one frame an entry.
    pub traceback: Vec<String>,
}

/// Why a prompt brought no outputs.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The server took the prompt for wrong (400).
    #[error("ComfyUI refused the workflow: {complaint}{}", list(nodes))]
    Rejected {
        /// What is wrong with the whole.
        complaint: Complaint,
        /// What is wrong with its nodes.
        nodes: Vec<NodeProblem>,
    },
    /// Some outputs would have been left out, and that was not allowed; nothing ran.
    #[error("ComfyUI would run only a part of the workflow{}", list(nodes))]
    Partial {
        /// What is wrong with the nodes that are left out.
        nodes: Vec<NodeProblem>,
    },
    /// A node failed.
    #[error("node {} ({}) failed: {}: {}{}", .0.node, .0.class_type, .0.exception, .0.message, frames(&.0.traceback))]
    Failed(Box<NodeFailure>),
    /// Somebody interrupted it.
    #[error("the run was interrupted by somebody else{}", at_node(node.as_deref()))]
    Interrupted {
        /// The node that ran.
        node: Option<String>,
    },
    /// It ended without success, and without a reason.
    #[error("ComfyUI ended the run without success and does not say why")]
    Unsuccessful,
    /// It ended with success, and there is nothing to show for it.
    #[error("the workflow ran and put nothing out")]
    NoOutput,
    /// The server forgot the prompt.
    #[error("ComfyUI no longer knows the prompt: it was started anew, or its queue was cleared")]
    Lost,
    /// An output is listed, and is not there.
    #[error("node {} ({}) lists {} as its output, but there is no such file", .output.node, .output.class_type,
            .output.file.filename)]
    MissingFile {
        /// The output.
        output: Box<OutputFile>,
    },
    /// The server died; it was ours to watch.
    #[error("the server died while the workflow ran: {0}")]
    Died(#[source] RunError),
    /// Nobody listens any more where the server was.
    #[error("ComfyUI at {url} is gone{}", lines(tail))]
    Gone {
        /// Where it was.
        url: String,
        /// What it logged last, where its log is known.
        tail: Vec<String>,
    },
    /// The server gave no sign of life.
    #[error("ComfyUI gave no sign of life for {after:?}")]
    Silent {
        /// For how long.
        after: Duration,
    },
    /// It took too long, and was cancelled.
    #[error("the workflow was not done within {after:?}, and was cancelled")]
    TimedOut {
        /// How long it could take.
        after: Duration,
    },
    /// The caller asked to stop; the prompt was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A call to the server failed.
    #[error(transparent)]
    Client(#[from] ClientError),
}

fn list(nodes: &[NodeProblem]) -> String {
    nodes.iter().map(|node| format!("\n  {node}")).collect()
}

/// The frames of a traceback, each of some lines, as they stand below a message.
fn frames(traceback: &[String]) -> String {
    traceback.iter().flat_map(|frame| frame.lines()).map(|line| format!("\n  |{line}")).collect()
}

fn at_node(node: Option<&str>) -> String {
    node.map_or(String::new(), |node| format!(" at node {node}"))
}
