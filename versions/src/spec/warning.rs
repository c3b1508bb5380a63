//! What is odd in a spec, but not wrong.

use std::fmt;

/// One oddity, at one place.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "warning", rename_all = "kebab-case")]
pub enum Warning {
    /// A key that means nothing to this program. It is kept.
    UnknownKey {
        /// Where.
        place: String,
        /// The keys that are read there.
        known: Vec<String>,
    },
    /// A `commit` that is no commit id: taken as a ref and pinned by the lock.
    RefInCommit {
        /// Where.
        place: String,
        /// What it says.
        found: String,
    },
    /// A `ref` beside a `commit` that names something else: the commit wins.
    RefIgnored {
        /// Where the ref is.
        place: String,
        /// What the commit says.
        commit: String,
    },
    /// A pip flag that was dropped, because leniency was asked for.
    PipFlagDropped {
        /// Where.
        place: String,
        /// The item.
        item: String,
    },
    /// Two entries with one target and one content.
    SameModel {
        /// The entry that counts.
        first: String,
        /// The entry that says it again.
        second: String,
        /// The target of both.
        target: String,
    },
    /// A model without a folder whose source names none either.
    FolderGuessed {
        /// The entry.
        place: String,
        /// Where it goes.
        target: String,
    },
    /// A node where ComfyUI does not look for nodes.
    NodeNotLoaded {
        /// The entry.
        place: String,
        /// Where it goes.
        target: String,
    },
    /// A model neither under `models/` nor in a node's directory.
    ModelElsewhere {
        /// The entry.
        place: String,
        /// Where it goes.
        target: String,
    },
    /// `env.COMFY_PYTHON` beside a `python.version` that says something else: the latter wins.
    PythonTwice {
        /// Where the one is that does not count.
        place: String,
        /// The one that counts.
        version: String,
    },
    /// A node whose `install.py`, which alone says what it needs, is not run.
    InstallNotRun {
        /// The node.
        place: String,
    },
    /// A model's file that is not what it seems, or that runs code when it is loaded.
    ModelFile {
        /// The model.
        place: String,
        /// Its file in the view.
        target: String,
        /// What was found.
        finding: String,
    },
    /// A password or token in an address: whoever reads the spec has it.
    Secret {
        /// Where.
        place: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey { place, known } => {
                write!(f, "{place}: unknown key, kept and not used (known here: {})", known.join(", "))
            }
            Self::RefInCommit { place, found } => {
                write!(
                    f,
                    "{place}: {found:?} is not a whole commit id; it is taken as a ref and pinned in the lock"
                )
            }
            Self::RefIgnored { place, commit } => {
                write!(f, "{place}: not used, because `commit` says {commit:?}")
            }
            Self::PipFlagDropped { place, item } => write!(f, "{place}: dropped {item:?}, an option of pip"),
            Self::SameModel { first, second, target } => {
                write!(f, "{second}: the same model as {first}, for {target}; one of the two is enough")
            }
            Self::FolderGuessed { place, target } => {
                write!(f, "{place}: no folder given, so it goes to {target}; `target_subdir` sets another")
            }
            Self::NodeNotLoaded { place, target } => {
                write!(f, "{place}: ComfyUI loads only what lies directly in custom_nodes/, not {target}")
            }
            Self::ModelElsewhere { place, target } => {
                write!(f, "{place}: {target} lies neither in models/ nor in a node; `$MODELS_DIR/…` is usual")
            }
            Self::PythonTwice { place, version } => {
                write!(f, "{place}: not used, because `python.version` says {version:?}")
            }
            Self::InstallNotRun { place } => write!(
                f,
                "{place}: its install.py may install what it needs, and is not run; `\"run_install\": true` has it run"
            ),
            Self::ModelFile { place, target, finding } => write!(f, "{place}: {target}: {finding}"),
            Self::Secret { place } => write!(
                f,
                "{place}: the address carries a password or token, which everyone who reads the spec will have"
            ),
        }
    }
}
