//! Classes of nodes that every ComfyUI has, and those that only its editor knows: a workflow that names them by class
//! alone asks for nothing by it. A class that is missing here becomes a question, never a guess.

/// One on each line, sorted: the names for which ComfyUI's frontend, whose names are made from what a running server
/// answers to `/object_info`, has texts (`src/locales/en/nodeDefs.json`). Those of its releases 1.17.11, 1.27.10,
/// 1.34.9 and 1.58.1 together, because old workflows have classes that ComfyUI has given up since; and the newer ones
/// that ComfyUI's own templates use (comfyui-workflow-templates 0.11.97).
const CORE: &str = include_str!("classes.txt");
/// What the editor draws and no server is asked for.
const OF_THE_EDITOR: [&str; 5] = ["GroupNode", "MarkdownNote", "Note", "PrimitiveNode", "Reroute"];

/// Whether the class comes with ComfyUI or with its editor.
pub(super) fn is_known(class: &str) -> bool {
    // The frontend's names of its texts have no dots.
    let name = class.replace('.', "_");
    CORE.lines().chain(OF_THE_EDITOR).any(|known| known == name)
        // Groups that were made into a node of one workflow.
        || class.starts_with("workflow/")
        || class.starts_with("workflow>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_comfyui_are_known_and_no_others() {
        let lines: Vec<&str> = CORE.lines().collect();
        assert!(lines.len() > 1000);
        assert!(lines.windows(2).all(|pair| pair[0].to_lowercase() < pair[1].to_lowercase()), "sorted");
        assert!(lines.iter().all(|line| !line.is_empty() && line.trim() == *line));
        for known in [
            "KSampler",
            "Epsilon Scaling",
            "EmptyAceStep1.5LatentAudio",
            "Reroute",
            "workflow>mine",
            "workflow/old",
        ] {
            assert!(is_known(known), "{known}");
        }
        for unknown in ["", "ksampler", "SDXLRefiner", "PlainTint", "KSampler (Efficient)", "Epsilon"] {
            assert!(!is_known(unknown), "{unknown}");
        }
    }
}
