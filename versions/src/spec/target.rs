//! Paths in a spec, as places in the view. `$COMFY_HOME` (or `${COMFY_HOME}`) at the start is the view's root,
//! `$MODELS_DIR` its `models`; a relative path starts at the root (or where the field says). Nothing leaves the view:
//! `..`, `~` and absolute paths are refused. `.venv` is kept for the Python environment.

use cvs_store::RelPath;

/// Folders of `models/` that ComfyUI and its common nodes look into: a model without a target goes where its source
/// names one of them.
const MODEL_FOLDERS: &[&str] = &[
    "audio_encoders",
    "checkpoints",
    "clip",
    "clip_vision",
    "configs",
    "controlnet",
    "diffusers",
    "diffusion_models",
    "embeddings",
    "gligen",
    "hypernetworks",
    "ipadapter",
    "loras",
    "model_patches",
    "photomaker",
    "style_models",
    "text_encoders",
    "unet",
    "upscale_models",
    "vae",
    "vae_approx",
];

/// The folder of a model whose source names none.
pub(super) const FALLBACK_FOLDER: &str = "checkpoints";

/// What a path in a spec may look like, for errors.
pub(super) const EXPECTED: &str =
    "a path in the view: `$COMFY_HOME/…`, `$MODELS_DIR/…` or relative, without `..`";

/// Reads a path; `relative_to` is where a relative one starts (`""` is the view's root). The error says what is wrong.
pub(super) fn parse(text: &str, relative_to: &str) -> Result<RelPath, String> {
    let (base, rest) = match variable(text) {
        Some(("COMFY_HOME", rest)) => ("", rest),
        Some(("MODELS_DIR", rest)) => ("models", rest),
        Some((name, _)) => return Err(format!("the unknown variable ${name}")),
        None if text.starts_with('/') => return Err("an absolute path".to_owned()),
        None if text == "~" || text.starts_with("~/") => return Err("a path in a home directory".to_owned()),
        None => (relative_to, text),
    };
    let names: Vec<&str> =
        base.split('/').chain(rest.split('/')).filter(|name| !matches!(*name, "" | ".")).collect();
    let path = RelPath::new(names.join("/")).map_err(|error| {
        if names.contains(&"..") { "a path with `..`".to_owned() } else { error.reason.to_owned() }
    })?;
    if names.first() == Some(&".venv") {
        return Err("a path in `.venv`, which is kept for the Python environment".to_owned());
    }
    Ok(path)
}

/// Splits `$NAME/rest` and `${NAME}/rest` into name and rest. A `$` elsewhere is an ordinary character.
fn variable(text: &str) -> Option<(&str, &str)> {
    let after = text.strip_prefix('$')?;
    let (name, rest) = match after.strip_prefix('{') {
        Some(braced) => braced.split_once('}')?,
        None => after.split_at(after.find('/').unwrap_or(after.len())),
    };
    // `${MODELS_DIR}x` is another word, not a directory below.
    if rest.is_empty() || rest.starts_with('/') { Some((name, rest)) } else { Some((after, "")) }
}

/// The folder below `models/` that the directories of a source name, the innermost first.
pub(super) fn folder_of_source<'a>(directories: impl DoubleEndedIterator<Item = &'a str>) -> Option<&'a str> {
    directories.rev().find(|name| MODEL_FOLDERS.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_the_view() {
        for (text, expected) in [
            ("$COMFY_HOME/custom_nodes/X", Ok("custom_nodes/X")),
            ("${COMFY_HOME}/a", Ok("a")),
            ("$COMFY_HOME", Ok("")),
            ("$COMFY_HOME/", Ok("")),
            ("$MODELS_DIR/vae//./a.pth", Ok("models/vae/a.pth")),
            ("${MODELS_DIR}/vae", Ok("models/vae")),
            ("models/a$b", Ok("models/a$b")),
            ("./a/b/", Ok("a/b")),
            ("$MODELS_DIR/..", Err("a path with `..`")),
            ("a/../../b", Err("a path with `..`")),
            ("$COMFY_HOME/../x", Err("a path with `..`")),
            ("/etc/passwd", Err("an absolute path")),
            ("~/x", Err("a path in a home directory")),
            ("$HOME/x", Err("the unknown variable $HOME")),
            ("$MODELS_DIRx/y", Err("the unknown variable $MODELS_DIRx")),
            ("${MODELS_DIR}x", Err("the unknown variable ${MODELS_DIR}x")),
            ("a\0b", Err("a NUL byte")),
            ("$COMFY_HOME/.venv/lib", Err("a path in `.venv`, which is kept for the Python environment")),
        ] {
            let found = parse(text, "").map(|path| path.to_string());
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
        assert_eq!(parse("vae", "models").unwrap().to_string(), "models/vae");
        assert_eq!(parse("$COMFY_HOME/x", "models").unwrap().to_string(), "x");
    }

    #[test]
    fn the_innermost_known_folder_counts() {
        let folder = |path: &'static str| folder_of_source(path.split('/'));
        assert_eq!(folder("split_files/vae"), Some("vae"));
        assert_eq!(folder("loras/vae/x"), Some("vae"));
        assert_eq!(folder("main/x"), None);
    }
}
