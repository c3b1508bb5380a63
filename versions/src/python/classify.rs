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
    if reason.contains("Git operation failed") {
        return PythonError::Unreachable { reason: causes(&reason) };
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What uv 0.13 prints, and what we say of it.
    #[test]
    fn what_uv_prints_is_understood() {
        for (said, expected) in [
            (
                "Resolved 3 packages in 2ms\nerror: Failed to download `alpha==1.0`\n  cause: Hash mismatch for `alpha==1.0`\n\n         \
                 Expected:\n           sha256:00\n\n         Computed:\n           sha256:11\n",
                "alpha==1.0 is not what was locked: expected sha256:00, found sha256:11",
            ),
            (
                "error: Failed to download `alpha==1.0`\n  cause: Size mismatch for `alpha==1.0`: expected 925 bytes, but downloaded 1091 bytes",
                "alpha==1.0 is not what was locked: expected 925 bytes, found 1091 bytes",
            ),
            (
                "error: Request failed after 3 retries in 6.8s\n  cause: Failed to fetch: http://h/simple/scipy/\n  cause: tcp connect error",
                "Python packages cannot be fetched: Request failed after 3 retries in 6.8s: Failed to fetch: http://h/simple/scipy/: \
                 tcp connect error",
            ),
            (
                "error: No solution found when resolving dependencies\n  cause: Because scipy was not found in the cache and you require \
                 scipy, we can conclude that your requirements are unsatisfiable.\n\nhint: Packages were unavailable because the network was \
                 disabled.",
                "offline, and not in uv's cache or the given wheels: Because scipy was not found in the cache and you require scipy, we can \
                 conclude that your requirements are unsatisfiable.",
            ),
            (
                "error: Failed to install: alpha-1.0-py3-none-any.whl\n  cause: No space left on device (os error 28)",
                "no space left while uv worked: No space left on device (os error 28)",
            ),
            (
                "error: Failed to download and build `broken==1.0`\n  cause: The build backend returned an error\n  cause: boom",
                "broken==1.0 has no wheel for this interpreter, and building it failed:\nFailed to download and build `broken==1.0`\n  cause: \
                 The build backend returned an error\n  cause: boom",
            ),
            (
                "error: Failed to download and build `x @ git+https://h/x`\n  cause: Git operation failed\n  cause: Could not resolve host: h",
                "Python packages cannot be fetched: Failed to download and build `x @ git+https://h/x`: Git operation failed: Could not \
                 resolve host: h",
            ),
            ("warning: x\nerror: something new\n  cause: y", "uv could not work: something new\n  cause: y"),
            ("", "uv could not work: "),
        ] {
            assert_eq!(failure("work", said).to_string(), expected, "{said}");
        }
    }

    #[test]
    fn only_a_conflict_is_one() {
        let conflict = "error: No solution found when resolving dependencies\n  cause: Because you require numpy<2 and numpy>=2.1, we can \
                        conclude that your requirements are unsatisfiable.";
        match resolution(conflict, &Names::new()) {
            Unresolved::Conflict(explanation) => assert_eq!(
                explanation,
                "Because you require numpy<2 and numpy>=2.1, we can conclude that your requirements are unsatisfiable."
            ),
            Unresolved::Failed(error) => panic!("{error}"),
        }
        let denied = "error: No solution found when resolving dependencies\n  cause: Because alpha was not found in the package registry.\n\n\
                      hint: could not be queried due to a lack of valid authentication credentials (401 Unauthorized)";
        assert!(matches!(resolution(denied, &Names::new()), Unresolved::Failed(PythonError::Denied { .. })));
    }
}
