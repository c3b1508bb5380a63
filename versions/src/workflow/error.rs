//! Why a workflow cannot be read, converted or edited. Every variant names the node, by id, class and title.

use std::fmt;

/// A node, as an error names it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct NodeRef {
    /// Its id; inside subgraphs with the ids of the instances before it, as `12:3`.
    pub id: String,
    /// Its class; of a subgraph's instance, the subgraph's name.
    pub class: String,
    /// Its title, where it has one of its own.
    pub title: Option<String>,
}

impl fmt::Display for NodeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} ({}", self.id, self.class)?;
        if let Some(title) = self.title.as_ref().filter(|title| **title != self.class) {
            write!(f, " {title:?}")?;
        }
        f.write_str(")")
    }
}

/// A class of nodes that the server does not have.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct UnknownClass {
    /// The class.
    pub class: String,
    /// The nodes of this class.
    pub nodes: Vec<String>,
    /// What the workflow says that it comes from: an id of the registry, or `OWNER/REPO`.
    pub from: Option<String>,
}

impl fmt::Display for UnknownClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = if self.nodes.len() == 1 { "node" } else { "nodes" };
        write!(f, "{} ({nodes} {}", self.class, self.nodes.join(", "))?;
        if let Some(from) = &self.from {
            write!(f, ", from {from}")?;
        }
        f.write_str(")")
    }
}

/// Why a workflow cannot be read, converted or edited.
#[derive(Debug, thiserror::Error)]
pub enum WorkflowError {
    /// Not JSON.
    #[error("the workflow is not JSON: line {line}, column {column}: {message}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// JSON, but no workflow.
    #[error(
        "not a workflow: found {found}; expected the API format (`{{\"ID\": {{\"class_type\", \"inputs\"}}}}`), \
         the format of the editor (`nodes` and `links`), or one of them under `prompt`, `workflow` or `input`"
    )]
    Unrecognised {
        /// What it is instead.
        found: String,
    },
    /// One place does not have the shape that the format says.
    #[error("{place}: found {found}; expected {expected}")]
    Malformed {
        /// Where.
        place: String,
        /// What is there.
        found: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// The server lacks classes that the workflow uses. All are listed.
    #[error("the server has no {}", list(classes))]
    UnknownClasses {
        /// The classes, in the order in which the workflow uses them.
        classes: Vec<UnknownClass>,
    },
    /// The workflow has group nodes, the predecessors of subgraphs.
    #[error("group nodes cannot be converted, subgraphs can: {}", list(nodes))]
    GroupNodes {
        /// The nodes.
        nodes: Vec<NodeRef>,
    },
    /// A link that starts or ends nowhere.
    #[error("{node}, input `{input}`: link {link} {reason}")]
    BrokenLink {
        /// The node at its end.
        node: Box<NodeRef>,
        /// The input.
        input: String,
        /// The link's number.
        link: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// Links that lead back to where they began, through nodes that only pass on.
    #[error("{node}: its links lead back to itself")]
    Cycle {
        /// A node on the way.
        node: Box<NodeRef>,
    },
    /// More than any workflow of a person has.
    #[error("the workflow has more than {limit} {what}")]
    TooLarge {
        /// Of what: `subgraphs when they are laid out`, ….
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// A subgraph that contains itself.
    #[error("{node}: its subgraph contains itself")]
    NestedInItself {
        /// The instance inside.
        node: Box<NodeRef>,
    },
    /// As many values as the class has widgets were expected.
    #[error(
        "{node}: it has {found} widget values, and {} of this server has {}; the workflow was saved with another \
         version of this node",
        node.class,
        widget_names(widgets)
    )]
    WidgetCount {
        /// The node.
        node: Box<NodeRef>,
        /// How many values the workflow has.
        found: usize,
        /// The widgets of the class, in order.
        widgets: Vec<String>,
    },
    /// A widget value that cannot be meant for this widget.
    #[error(
        "{node}: its widget `{widget}` would get {found}, and takes {expected}; the workflow was saved with another \
         version of this node"
    )]
    WidgetValue {
        /// The node.
        node: Box<NodeRef>,
        /// The widget.
        widget: String,
        /// The value.
        found: String,
        /// What it takes.
        expected: String,
    },
    /// The values of an instance's promoted widgets cannot be told apart.
    #[error("{node}: it has {found} values for {expected} promoted widgets")]
    PromotedCount {
        /// The instance.
        node: Box<NodeRef>,
        /// How many values it has.
        found: usize,
        /// How many widgets it shows.
        expected: usize,
    },
    /// After what is muted has gone, no output is left.
    #[error("nothing in the workflow makes an output{}", dropped_note(dropped))]
    NothingToRun {
        /// What was left out, with the reason.
        dropped: Vec<String>,
    },
    /// An assignment that is not `NODE.INPUT=VALUE`.
    #[error("{text:?} is not an assignment: expected NODE.INPUT=VALUE")]
    Assignment {
        /// The argument.
        text: String,
    },
    /// No node has this id, title or class.
    #[error("no node has the id, title or class {wanted:?}{}", near_note(near))]
    UnknownNode {
        /// What was asked for.
        wanted: String,
        /// Names that look like it; or all, when there are few.
        near: Vec<String>,
    },
    /// More than one node has this title or class.
    #[error("{wanted:?} is more than one node: {}; name it by its id", list(nodes))]
    AmbiguousNode {
        /// What was asked for.
        wanted: String,
        /// The nodes.
        nodes: Vec<NodeRef>,
    },
    /// The node has no such input.
    #[error("{node} has no input `{wanted}`; it has {}", names(inputs))]
    UnknownInput {
        /// The node.
        node: Box<NodeRef>,
        /// What was asked for.
        wanted: String,
        /// Its inputs.
        inputs: Vec<String>,
    },
    /// The input takes something else.
    #[error("{node}, input `{input}`: found {found}; expected {expected}")]
    InputValue {
        /// The node.
        node: Box<NodeRef>,
        /// The input.
        input: String,
        /// The value given.
        found: String,
        /// What the input takes.
        expected: String,
    },
    /// No input of the workflow is meant by the name of a file.
    #[error("no input of the workflow takes a file called {name:?}; {}", file_inputs(inputs))]
    NoFileInput {
        /// The name.
        name: String,
        /// The inputs that take files, as `NODE.INPUT (VALUE)`.
        inputs: Vec<String>,
    },
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn names(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { format!("`{}`", items.join("`, `")) }
}

fn widget_names(items: &[String]) -> String {
    match items.len() {
        0 => "none".to_owned(),
        count => format!("{count} ({})", names(items)),
    }
}

fn near_note(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; there is {}", names(near)) }
}

fn dropped_note(dropped: &[String]) -> String {
    if dropped.is_empty() { String::new() } else { format!("; left out: {}", dropped.join("; ")) }
}

fn file_inputs(inputs: &[String]) -> String {
    if inputs.is_empty() {
        "none of its inputs takes a file".to_owned()
    } else {
        format!("these take files: {}", inputs.join(", "))
    }
}
