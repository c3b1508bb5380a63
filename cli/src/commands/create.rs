//! `cvs create`.

use std::path::Path;

use clap::Args;
use cvs_versions::spec::{NewSpec, PythonSpec, ReadOptions, VersionId, inputs};
use cvs_versions::{CreateOptions, SpecError};

use super::shared::{IntakeArgs, RateArgs, WheelsArgs, locked_line, warn};
use crate::activity::Activity;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::mounts::MountedSandbox;

/// Describe a version and store all that it needs.
///
/// Branches and tags are pinned to commits, everything is fetched, and the version can be mounted right after. When
/// something fails, nothing is published; downloads go on where they stopped when the command is run again.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The name of the version.
    id: VersionId,

    /// The repository of ComfyUI, with a branch, tag or commit behind `@`.
    #[arg(long, value_name = "URL[@REF]")]
    repo: String,

    /// A list of nodes: a JSON or YAML file, or JSON text.
    #[arg(long, value_name = "FILE|JSON", alias = "nodes-file")]
    nodes: Vec<String>,

    /// A node.
    #[arg(long, value_name = "URL[@REF]")]
    node: Vec<String>,

    /// A list of models: a JSON or YAML file, or JSON text.
    #[arg(long, value_name = "FILE|JSON", alias = "models-file")]
    models: Vec<String>,

    /// A model, and where it goes in the version, such as `models/vae/x.safetensors`.
    #[arg(long, value_name = "SRC[=PATH]")]
    model: Vec<String>,

    /// A Python requirement besides those of core and nodes.
    #[arg(long, value_name = "REQUIREMENT")]
    package: Vec<String>,

    #[command(flatten)]
    python: PythonArgs,

    /// A variable in the environment of ComfyUI.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,

    /// Resolve and pin only, and fetch later.
    #[arg(long)]
    no_fetch: bool,

    /// Use no network: take what the store has.
    #[arg(long)]
    offline: bool,

    /// Drop options of pip among the requirements with a warning, instead of refusing them.
    #[arg(long)]
    lenient: bool,

    /// Replace a version of the same name.
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    intake: IntakeArgs,

    #[command(flatten)]
    wheels: WheelsArgs,

    #[command(flatten)]
    rate: RateArgs,
}

/// What a version asks of Python.
#[derive(Debug, Clone, Args)]
struct PythonArgs {
    /// The version of Python.
    #[arg(long, value_name = "VERSION")]
    python: Option<String>,

    /// The package index in place of the default one.
    #[arg(long, value_name = "URL")]
    index_url: Option<String>,

    /// A package index that is asked before the other one.
    #[arg(long, value_name = "URL")]
    extra_index_url: Vec<String>,

    /// Which build of PyTorch: `auto`, `cpu`, `cu128`, `rocm6.4`, … as uv names them.
    #[arg(long, value_name = "BACKEND")]
    torch_backend: Option<String>,

    /// Make no Python environment: whoever starts ComfyUI brings one.
    #[arg(long, env = "CVS_SKIP_PYTHON", value_parser = clap::builder::FalseyValueParser::new())]
    skip_python: bool,
}

pub(crate) fn run(context: &Context, args: &CreateArgs) -> Result<Exit, CliError> {
    let cwd = std::env::current_dir().map_err(CliError::WorkingDirectory)?;
    let spec = args.spec(&cwd)?;
    let workspace = context.workspace()?.clone().reading(spec.options);
    let activity = Activity::new(context);
    let events = |event: cvs_versions::Event<'_>| activity.hear(event);
    let sandbox = MountedSandbox { store: context.store()?.clone() };
    let options = CreateOptions {
        sandbox: Some(&sandbox),
        fetch: !args.no_fetch,
        replace: args.force,
        offline: args.offline,
        intake: args.intake.intake(),
        wheels: args.wheels.directory(),
        limits: args.rate.limits(),
        events: &events,
        cancel: context.cancel(),
    };
    let report = workspace.create(spec, &options)?;
    drop(activity);
    let output = context.output();
    warn(output, &report.lock.warnings);
    if output.is_json() {
        output.json(&report)?;
        return Ok(Exit::Ok);
    }
    output.note(&format!("created {}", locked_line(&report.lock)));
    if let Some(overlay) = &report.kept_overlay {
        let overlay = overlay.display();
        output
            .warning(&format!("what an earlier version of this name wrote shows in the new one: {overlay}"));
    }
    if args.no_fetch {
        output.note(&format!("`cvs lock {}` fetches what it needs", args.id));
    }
    Ok(Exit::Ok)
}

impl CreateArgs {
    /// What the arguments ask for: lists first, then what was named one by one.
    fn spec(&self, cwd: &Path) -> Result<NewSpec, SpecError> {
        let mut custom_nodes = Vec::new();
        for list in &self.nodes {
            custom_nodes.extend(inputs::read_nodes(list, cwd)?);
        }
        for node in &self.node {
            custom_nodes.push(inputs::node_from_arg(node, cwd)?);
        }
        let mut models = Vec::new();
        for list in &self.models {
            models.extend(inputs::read_models(list, cwd)?);
        }
        for model in &self.model {
            models.push(inputs::model_from_arg(model, cwd)?);
        }
        Ok(NewSpec {
            version_id: self.id.clone(),
            repo: inputs::repo_from_arg(&self.repo, cwd),
            custom_nodes,
            models,
            python_packages: self.package.clone(),
            python: PythonSpec {
                version: self.python.python.clone(),
                index_url: self.python.index_url.clone(),
                extra_index_urls: self.python.extra_index_url.clone(),
                torch_backend: self.python.torch_backend.clone(),
            },
            skip_python: self.python.skip_python,
            env: self.env.clone(),
            options: ReadOptions { lenient: self.lenient },
        })
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a variable is written NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::args::Cli;
    use crate::commands::Command;

    fn parse(args: &[&str]) -> CreateArgs {
        match Cli::try_parse_from([&["cvs", "create"], args].concat()).unwrap().command {
            Command::Create(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_become_a_spec() {
        let args = parse(&[
            "x",
            "--repo",
            "https://h/o/ComfyUI@v1",
            "--node",
            "https://h/o/a@main",
            "--nodes",
            r#"["https://h/o/b"]"#,
            "--model",
            "vae.safetensors=models/vae/",
            "--package",
            "numpy<2",
            "--python",
            "3.12",
            "--env",
            "A=1=2",
        ]);
        let spec = args.spec(Path::new("/w")).unwrap();
        assert_eq!(spec.repo, "https://h/o/ComfyUI@v1");
        assert_eq!(
            json!(spec.custom_nodes),
            json!([{ "repo": "https://h/o/b" }, { "repo": "https://h/o/a", "ref": "main" }])
        );
        assert_eq!(
            json!(spec.models),
            json!([{ "source": "/w/vae.safetensors", "target_path": "models/vae/" }])
        );
        assert_eq!(spec.python_packages, ["numpy<2"]);
        assert_eq!(spec.python.version.as_deref(), Some("3.12"));
        assert_eq!(spec.env, [("A".to_owned(), "1=2".to_owned())]);
    }

    #[test]
    fn names_of_the_earlier_tool_are_understood() {
        let args = parse(&["x", "--repo", "r", "--nodes-file", "n.json", "--models-file", "m.yml"]);
        assert_eq!((args.nodes, args.models), (vec!["n.json".to_owned()], vec!["m.yml".to_owned()]));
    }

    #[test]
    fn wrong_arguments_are_refused_by_the_parser() {
        for bad in [
            &["x"][..],
            &["../x", "--repo", "r"],
            &["x", "--repo", "r", "--env", "A"],
            &["x", "--repo", "r", "--env", "=1"],
            &["x", "--repo", "r", "--move", "--hardlink"],
        ] {
            assert!(Cli::try_parse_from([&["cvs", "create"], bad].concat()).is_err(), "{bad:?}");
        }
    }
}
