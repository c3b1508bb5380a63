//! What a failed run of uv means.

use super::error::PythonError;
use super::text::{self, Names};

/// Why requirements could not be resolved, before anyone asked who disagrees.
pub(super) enum Unresolved {
    /// They cannot all be met; uv's explanation.
    Conflict(String),
    /// Anything else.
    Failed(PythonError),
}

/// What a failed resolution means.
pub(super) fn resolution(said: &str, names: &Names) -> Unresolved {
    let said = names.clean(said);
    let reason = text::error(&said);
    let no_solution = reason.starts_with("No solution found");
    if no_solution && !is_offline(&reason) && !is_denied(&reason) {
        let explanation = reason.lines().skip(1).collect::<Vec<_>>().join("\n");
        let explanation = explanation.trim().trim_start_matches("cause:").trim();
        return Unresolved::Conflict(explanation.to_owned());
    }
    Unresolved::Failed(failure("resolve the requirements", &said))
}

/// What a failure means that is not a conflict. `said` is clean.
pub(super) fn failure(operation: &'static str, said: &str) -> PythonError {
    let reason = text::error(said);
    let has = |parts: &[&str]| parts.iter().any(|part| reason.contains(part));
    if has(&["No space left on device", "os error 28", "os error 122"]) {
        return PythonError::NoSpace { reason: first_cause(&reason) };
    }
    if let Some(package) = between(&reason, "Hash mismatch for `", "`") {
        return PythonError::HashMismatch {
            package,
            expected: after(&reason, "Expected:"),
            found: after(&reason, "Computed:"),
        };
    }
    if let Some(rest) = reason.split_once("Size mismatch for `").map(|(_, rest)| rest)
        && let Some((package, sizes)) = rest.split_once('`')
    {
        let size = |mark: &str| format!("{} bytes", after(sizes, mark));
        let (expected, found) = (size("expected"), size("downloaded"));
        return PythonError::HashMismatch { package: package.to_owned(), expected, found };
    }
    if is_offline(&reason) {
        return PythonError::Offline { what: offline_subject(&reason) };
    }
    if is_denied(&reason) {
        return PythonError::Denied { reason: causes(&reason) };
    }
    if let Some(package) = failed_build(&reason) {
        return PythonError::BuildFailed { package, tail: text::tail(&reason) };
    }
    if has(&[
        "error sending request",
        "Request failed",
        "Could not connect",
        "Failed to fetch",
        "operation timed out",
    ]) {
        return PythonError::Unreachable { reason: causes(&reason) };
    }
    PythonError::Uv { operation, reason: text::tail(&reason) }
}

fn is_offline(reason: &str) -> bool {
    [
        "network was disabled",
        "network connectivity is disabled",
        "was not found in the cache",
        "not found in the provided package locations",
    ]
    .iter()
    .any(|part| reason.to_lowercase().contains(part))
}

fn is_denied(reason: &str) -> bool {
    reason.contains("401 Unauthorized") || reason.contains("403 Forbidden")
}

/// The sentence that names the package.
fn offline_subject(reason: &str) -> String {
    let marks = ["not found in the cache", "not found in the provided", "disabled", "Failed to"];
    let line = marks.iter().find_map(|mark| reason.lines().find(|line| line.contains(mark)));
    let line = line.or_else(|| reason.lines().next()).unwrap_or_default();
    line.trim().trim_start_matches("cause:").trim().to_owned()
}

/// The package whose build failed.
fn failed_build(reason: &str) -> Option<String> {
    let first = reason.lines().find(|line| line.contains("ailed to") && line.contains("build"))?;
    between(first, "`", "`")
}

/// The innermost cause.
fn first_cause(reason: &str) -> String {
    let last = reason.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    last.trim().trim_start_matches("cause:").trim().to_owned()
}

/// All causes on one line.
fn causes(reason: &str) -> String {
    let lines = reason.lines().map(|line| line.trim().trim_start_matches("cause:").trim());
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(": ")
}

fn between(text: &str, start: &str, end: &str) -> Option<String> {
    let rest = text.split_once(start)?.1;
    Some(rest.split_once(end)?.0.to_owned())
}

/// The first word after `mark`.
fn after(text: &str, mark: &str) -> String {
    let rest = text.split_once(mark).map_or("", |(_, rest)| rest);
    rest.split_whitespace().next().unwrap_or("nothing").to_owned()
}
