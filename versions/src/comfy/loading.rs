//! What the log of a start tells of the nodes: which were loaded, in what time, and why the others were not.
//!
//! ComfyUI's exit code says nothing of it. Its log ends the loading with a list, `Import times for custom nodes:`, one
//! line a node, with `(IMPORT FAILED)` where it applies; before that stands, for each that failed, a traceback followed
//! by `Cannot import PATH module for custom nodes: …`. Scripts that run before have a list of their own.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

/// What became of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadState {
    /// It can be used.
    Loaded,
    /// Importing it failed.
    ImportFailed,
    /// Its script that runs before the imports failed; what that was to prepare is not there.
    PrestartupFailed,
    /// The log does not mention it.
    NotLoaded,
}

/// One node, or one module of the core's extras.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeLoad {
    /// Its file or directory, relative to the root where it lies below it.
    pub path: String,
    /// What became of it.
    pub state: LoadState,
    /// How long it took to import, with its prestartup script.
    pub seconds: Option<f64>,
    /// The last line of the traceback, or what else the log says.
    pub reason: Option<String>,
}

/// What the log of a start at `root` tells, in the order in which nodes were loaded: the slowest last.
pub fn loading(log: &str, root: &Path) -> Vec<NodeLoad> {
    let root = root.to_str().map(|root| format!("{}/", root.trim_end_matches('/'))).unwrap_or_default();
    let relative = |path: &str| path.strip_prefix(root.as_str()).unwrap_or(path).to_owned();
    let mut nodes: Vec<NodeLoad> = Vec::new();
    let mut reasons: BTreeMap<String, String> = BTreeMap::new();
    let mut traceback = None;
    for line in log.lines().map(plain) {
        if let Some((path, error)) = between(&line, "Cannot import ", " module for custom nodes: ") {
            // The message alone does not say which kind of error it is.
            let reason = traceback.take().unwrap_or_else(|| error.to_owned());
            reasons.insert(relative(path), reason);
        } else if let Some((path, error)) = between(&line, "Skip ", " module for custom nodes due to ") {
            reasons.insert(relative(path), error.trim_end_matches('.').to_owned());
        } else if let Some((script, error)) = between(&line, "Failed to execute startup-script: ", " / ") {
            let node = Path::new(script).parent().and_then(Path::to_str).unwrap_or(script);
            reasons.insert(relative(node), error.to_owned());
        } else if let Some(name) = line.strip_prefix("IMPORT FAILED: ") {
            let path = format!("comfy_extras/{}", name.trim());
            let reason = reasons.iter().find(|(of, _)| of.ends_with(&path)).map(|(_, reason)| reason.clone());
            nodes.push(NodeLoad { path, state: LoadState::ImportFailed, seconds: None, reason });
        } else if let Some((seconds, remark, path)) = timed(&line) {
            let path = relative(path);
            let state = match remark {
                "IMPORT FAILED" => LoadState::ImportFailed,
                "PRESTARTUP FAILED" => LoadState::PrestartupFailed,
                _ => LoadState::Loaded,
            };
            let reason = reasons.get(&path).filter(|_| state != LoadState::Loaded).cloned();
            match nodes.iter().position(|node| node.path == path) {
                // Its script's line came first, and its import's is the one that orders it.
                Some(at) => {
                    let before = nodes.remove(at);
                    let state = if state == LoadState::Loaded { before.state } else { state };
                    let seconds = before.seconds.map_or(seconds, |earlier| earlier + seconds);
                    let reason = reason.or(before.reason);
                    nodes.push(NodeLoad { path, state, seconds: Some(seconds), reason });
                }
                None => nodes.push(NodeLoad { path, state, seconds: Some(seconds), reason }),
            }
        }
        if !line.trim().is_empty() {
            let is_its_end = !line.starts_with(char::is_whitespace) && !line.starts_with("Traceback ");
            traceback = is_its_end.then_some(line);
        }
    }
    nodes
}

/// `   0.1 seconds (IMPORT FAILED): /path`: the time, the remark and the path.
fn timed(line: &str) -> Option<(f64, &str, &str)> {
    let (seconds, rest) = line.trim_start().split_once(" seconds")?;
    let seconds = seconds.parse().ok()?;
    if let Some(path) = rest.strip_prefix(": ") {
        return Some((seconds, "", path.trim_end()));
    }
    let (remark, path) = rest.strip_prefix(" (")?.split_once("): ")?;
    Some((seconds, remark, path.trim_end()))
}

fn between<'a>(line: &'a str, head: &str, middle: &str) -> Option<(&'a str, &'a str)> {
    line.strip_prefix(head)?.split_once(middle)
}

/// A line without what colours it and what a progress bar wrote before.
fn plain(line: &str) -> String {
    let line = line.rsplit('\r').find(|part| !part.is_empty()).unwrap_or("");
    let mut text = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            // A control sequence ends with a letter.
            '\x1b' => drop(rest.by_ref().find(char::is_ascii_alphabetic)),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
Failed to execute startup-script: /m/custom_nodes/pre/prestartup_script.py / asked to fail

Prestartup times for custom nodes:
   0.5 seconds: /m/custom_nodes/fine
   0.0 seconds (PRESTARTUP FAILED): /m/custom_nodes/pre

Traceback (most recent call last):
  File \"/m/nodes.py\", line 3, in load
    import missing
ModuleNotFoundError: No module named 'missing'

\x1b[33mCannot import /m/custom_nodes/broken module for custom nodes: No module named 'missing'\x1b[0m
Skip /m/custom_nodes/empty.py module for custom nodes due to the lack of NODE_CLASS_MAPPINGS or NODES_LIST (need one).
Traceback (most recent call last):
  File \"/m/comfy_extras/nodes_zzz.py\", line 1, in <module>
ValueError: no

Cannot import /m/comfy_extras/nodes_zzz.py module for custom nodes: no

Import times for custom nodes:
   0.0 seconds: /m/custom_nodes/pre
   0.0 seconds (IMPORT FAILED): /m/custom_nodes/empty.py
   0.2 seconds (IMPORT FAILED): /m/custom_nodes/broken
   1.5 seconds: /m/custom_nodes/fine
   2.0 seconds: /elsewhere/x

WARNING: some comfy_extras/ nodes did not import correctly.

IMPORT FAILED: nodes_zzz.py
";

    #[test]
    fn every_line_is_understood() {
        let shown: Vec<String> = loading(LOG, Path::new("/m"))
            .iter()
            .map(|node| {
                let seconds = node.seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.1}"));
                let reason = node.reason.as_deref().unwrap_or("-");
                format!("{} {:?} {seconds} {reason}", node.path, node.state)
            })
            .collect();
        assert_eq!(
            shown,
            [
                "custom_nodes/pre PrestartupFailed 0.0 asked to fail",
                "custom_nodes/empty.py ImportFailed 0.0 the lack of NODE_CLASS_MAPPINGS or NODES_LIST (need one)",
                "custom_nodes/broken ImportFailed 0.2 ModuleNotFoundError: No module named 'missing'",
                "custom_nodes/fine Loaded 2.0 -",
                "/elsewhere/x Loaded 2.0 -",
                "comfy_extras/nodes_zzz.py ImportFailed - ValueError: no",
            ]
        );
        assert_eq!(loading("", Path::new("/m")), []);
    }
}
