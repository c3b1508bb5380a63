//! The command line as a whole: what every command takes, and how it reads in the help.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};
use clap::{Args, Parser, ValueEnum};

use crate::commands::Command;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const AFTER_HELP: &str = "\
Exit codes: 0 success, 1 failure, 2 wrong usage, 3 damage found, 4 something is in use, 130 interrupted.

The home directory holds everything: specs, objects, overlays. It is the first of --home, CVS_HOME, the key `home` of \
$XDG_CONFIG_HOME/cvs/config.json, and $XDG_DATA_HOME/cvs (~/.local/share/cvs).";

/// Keeps versions of ComfyUI, every distinct file once, and shows each as a directory to run it from.
#[derive(Debug, Parser)]
#[command(name = "cvs", version, styles = STYLES, after_help = AFTER_HELP, max_term_width = 100)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// The directory that holds everything.
    #[arg(long, global = true, value_name = "DIR", env = "CVS_HOME", hide_env_values = true, value_parser = directory())]
    pub(crate) home: Option<PathBuf>,

    /// The directory of specs, when it is not `versions` in the home directory.
    #[arg(long, global = true, value_name = "DIR", env = "CVS_VERSIONS_DIR", hide_env_values = true, value_parser = directory())]
    pub(crate) versions_dir: Option<PathBuf>,

    /// Print data as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Say nothing but data, warnings and errors.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    /// Say more on stderr; twice for still more. The variable CVS_LOG sets the filter exactly.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// When to use colors; `auto` heeds NO_COLOR and uses them on terminals.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorWhen,

    /// Show no progress.
    #[arg(long, global = true)]
    pub(crate) no_progress: bool,
}

/// A path that may be empty, because an empty variable is an unset one.
fn directory() -> ValueParser {
    OsStringValueParser::new().map(PathBuf::from).into()
}

/// When to use colors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorWhen {
    Auto,
    Always,
    Never,
}
