//! Entries among each other: two things at one path, and things where nobody looks for them.

use std::collections::BTreeMap;

use cvs_store::RelPath;

use super::model::{ModelSpec, NodeSpec};
use super::reader::Findings;
use super::warning::Warning;

/// Two nodes may not have one directory. One inside another is allowed: their directories merge, and a path that both
/// have is found when the view is composed.
pub(super) fn nodes(nodes: &[NodeSpec], findings: &mut Findings) {
    let mut seen: BTreeMap<&RelPath, &NodeSpec> = BTreeMap::new();
    for node in nodes {
        if let Some(first) = seen.get(&node.path) {
            let found = format!("the directory {}, which {} has already", node.path, first.place);
            findings.problem(&node.place, found, "another `name` or `target_dir`, or one entry less");
            continue;
        }
        seen.insert(&node.path, node);
        // Loose files of `custom_nodes` lie there, and what is switched off is meant not to be loaded.
        let loose = node.tree.is_some() && node.path.as_bytes() == b"custom_nodes";
        let parent = node.path.parent();
        let looked_at = parent
            .as_ref()
            .is_some_and(|parent| matches!(parent.as_bytes(), b"custom_nodes" | b"custom_nodes/.disabled"));
        if !looked_at && !loose {
            findings
                .warnings
                .push(Warning::NodeNotLoaded { place: node.place.clone(), target: node.path.to_string() });
        }
    }
}

/// Merges entries with one target and one content; anything else twice at one path is a problem.
pub(super) fn models(models: Vec<ModelSpec>, nodes: &[NodeSpec], findings: &mut Findings) -> Vec<ModelSpec> {
    let mut kept: Vec<ModelSpec> = Vec::new();
    let mut by_path: BTreeMap<RelPath, usize> = BTreeMap::new();
    for model in models {
        match by_path.get(&model.path) {
            Some(&index) => merge(&mut kept[index], model, findings),
            None => {
                by_path.insert(model.path.clone(), kept.len());
                kept.push(model);
            }
        }
    }
    for model in &kept {
        let above = std::iter::successors(model.path.parent(), RelPath::parent);
        for parent in above.filter_map(|parent| by_path.get(&parent)).map(|&index| &kept[index]) {
            let found = format!("{}, below the file {} of {}", model.path, parent.path, parent.place);
            findings.problem(&model.place, found, "a path that is not below another model");
        }
        for node in nodes.iter().filter(|node| node.path.starts_with(&model.path)) {
            let found = format!("{}, where {} has its directory {}", model.path, node.place, node.path);
            findings.problem(&model.place, found, "a path that is not a directory of a node");
        }
        let usual = |dir: &str| RelPath::new(dir).is_ok_and(|dir| model.path.starts_with(&dir));
        let at_home = usual("models") || usual("custom_nodes");
        if !at_home && !nodes.iter().any(|node| model.path.starts_with(&node.path)) {
            let warning =
                Warning::ModelElsewhere { place: model.place.clone(), target: model.path.to_string() };
            findings.warnings.push(warning);
        }
    }
    kept
}

fn merge(first: &mut ModelSpec, second: ModelSpec, findings: &mut Findings) {
    for checksum in &second.checksums {
        let other =
            first.checksums.iter().find(|other| other.kind() == checksum.kind() && *other != checksum);
        if let Some(other) = other {
            let found = format!("{checksum} for {}, for which {} says {other}", first.path, first.place);
            findings.problem(
                format!("{}.checksum", second.place),
                found,
                "the same content, or another target",
            );
            return;
        }
    }
    let same_content = second.checksums.iter().any(|checksum| first.checksums.contains(checksum));
    if !same_content && first.source.identity() != second.source.identity() {
        let found = format!("{}, the target of {} too, with another source", second.path, first.place);
        findings.problem(&second.place, found, "another target, or one entry less");
        return;
    }
    findings.warnings.push(Warning::SameModel {
        first: first.place.clone(),
        second: second.place,
        target: first.path.to_string(),
    });
    for checksum in second.checksums {
        if !first.checksums.contains(&checksum) {
            first.checksums.push(checksum);
        }
    }
}
