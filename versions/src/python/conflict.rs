//! Which lists of requirements disagree: the smallest set that cannot be met together, found by leaving lists out
//! (QuickXplain). Each step is a run of uv that finds what it needs in its cache, and there are few of them: with the
//! number of lists their logarithm, times the lists that disagree.

use super::classify::Unresolved;
use super::error::{PythonError, Side};
use super::event::PythonEvent;
use super::requirements::{name_of, normalise};
use super::resolve::{Resolver, Source};
use super::text::Names;

/// Runs of uv at most; beyond it, lists that are only suspected are named as well.
const RUNS: usize = 48;
/// Lines that a side shows when none of them is in the explanation.
const SHOWN: usize = 6;

struct Search<'a> {
    resolver: &'a Resolver<'a>,
    left: usize,
}

/// The error for `sources`, which cannot be met together; `explanation` is what uv said of all.
pub(super) fn find(resolver: &Resolver<'_>, sources: &[Source], explanation: String) -> PythonError {
    let all: Vec<&Source> = sources.iter().collect();
    let mut search = Search { resolver, left: RUNS };
    let smallest = search.smallest(&[], false, &all);
    if resolver.options().cancelled() {
        return PythonError::Cancelled;
    }
    let smallest: Vec<&Source> = all
        .iter()
        .copied()
        .filter(|source| smallest.iter().any(|found| std::ptr::eq(*found, *source)))
        .collect();
    // What uv says of these alone speaks of nothing else.
    let explanation = search.conflict(&smallest).unwrap_or(explanation);
    let sides = smallest.iter().map(|source| side(source, &explanation)).collect();
    PythonError::Conflict { sides, explanation }
}

impl Search<'_> {
    /// The smallest part of `candidates` that cannot be met together with `background`.
    fn smallest<'s>(
        &mut self,
        background: &[&'s Source],
        grown: bool,
        candidates: &[&'s Source],
    ) -> Vec<&'s Source> {
        if grown && self.conflict(background).is_some() {
            return Vec::new();
        }
        if candidates.len() < 2 || self.left == 0 || self.resolver.options().cancelled() {
            return candidates.to_vec();
        }
        self.resolver.options().event(PythonEvent::Narrowing { suspects: candidates.len() });
        let (first, second) = candidates.split_at(candidates.len() / 2);
        let late = self.smallest(&[background, first].concat(), true, second);
        let early = self.smallest(&[background, &late].concat(), !late.is_empty(), first);
        [early, late].concat()
    }

    /// Why these cannot be met together; none when they can, or when that cannot be told.
    fn conflict(&mut self, sources: &[&Source]) -> Option<String> {
        self.left = self.left.checked_sub(1)?;
        let mut tried = self.resolver.compile(sources, false, true);
        if matches!(tried, Err(Unresolved::Failed(PythonError::Offline { .. })))
            && !self.resolver.options().offline
        {
            tried = self.resolver.compile(sources, false, false);
        }
        match tried {
            Err(Unresolved::Conflict(explanation)) => Some(explanation),
            _ => None,
        }
    }
}

/// A party, with the lines that speak of packages in the explanation.
fn side(source: &Source, explanation: &str) -> Side {
    let words = explanation.split(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c)));
    let words: std::collections::HashSet<String> = words.map(normalise).collect();
    let told = |line: &&String| words.contains(&name_of(line));
    let mut lines: Vec<String> = source.lines.iter().filter(told).cloned().collect();
    if lines.is_empty() {
        lines = source.lines.iter().take(SHOWN).cloned().collect();
        if source.lines.len() > SHOWN {
            lines.push("…".to_owned());
        }
    }
    // An address in them can hold a password.
    let lines = lines.iter().map(|line| Names::new().clean(line)).collect();
    Side { label: source.label.clone(), lines }
}

#[cfg(test)]
mod tests {
    use super::super::requirements::Role;
    use super::super::resolve::Kind;
    use super::*;

    #[test]
    fn a_side_shows_no_password() {
        let lines = ["alpha @ git+https://me:token@host/alpha", "beta>=2"].map(str::to_owned).to_vec();
        let kind = Kind::List(Role::Packages, "requirements.txt".into());
        let source = Source { label: "python_packages".to_owned(), kind, lines };
        let shown = ["alpha @ git+https://host/alpha", "beta>=2"];
        assert_eq!(side(&source, "alpha and beta").lines, shown);
        assert_eq!(side(&source, "").lines, shown);
    }
}
