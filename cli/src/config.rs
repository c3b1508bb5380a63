//! Where the home directory and the specs are: flag, variable, configuration file, default, in this order.
//!
//! The configuration file is `$XDG_CONFIG_HOME/cvs/config.json`, one JSON object with the keys `home` and
//! `versions_dir`, both optional, both absolute paths or starting with `~/`. An unknown key is an error: it would
//! otherwise be a setting that does nothing.

use std::io;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use etcetera::base_strategy::Xdg;

use crate::args::GlobalArgs;
use crate::error::CliError;

/// The directories that a command works in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) home: PathBuf,
    /// None for `versions` in the home directory.
    pub(crate) versions: Option<PathBuf>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    home: Option<PathBuf>,
    versions_dir: Option<PathBuf>,
}

/// Finds the directories for this command.
pub(crate) fn places(args: &GlobalArgs) -> Result<Places, CliError> {
    // An empty variable is an unset one.
    let given = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
    let (home, versions) = (given(&args.home), given(&args.versions_dir));
    if let (Some(home), Some(versions)) = (&home, &versions) {
        return Ok(Places { home: home.clone(), versions: Some(versions.clone()) });
    }
    // Who has no home directory has no configuration file either.
    let Ok(person) = Xdg::new() else {
        return Ok(Places { home: home.ok_or(CliError::NoHome)?, versions });
    };
    let config = read(&person.config_dir().join("cvs/config.json"), person.home_dir())?;
    Ok(Places {
        home: home.or(config.home).unwrap_or_else(|| person.data_dir().join("cvs")),
        versions: versions.or(config.versions_dir),
    })
}

fn read(path: &Path, person: &Path) -> Result<Config, CliError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Config::default()),
        Err(error) => return Err(CliError::Config { path: path.to_owned(), detail: error.to_string() }),
    };
    parse(&text, person).map_err(|detail| CliError::Config { path: path.to_owned(), detail })
}

fn parse(text: &str, person: &Path) -> Result<Config, String> {
    let config: Config = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let expand = |key: &str, path: Option<PathBuf>| match path {
        None => Ok(None),
        Some(path) => match path.strip_prefix("~") {
            Ok(below) => Ok(Some(person.join(below))),
            Err(_) if path.is_absolute() => Ok(Some(path)),
            Err(_) => Err(format!("{key}: {:?} is not absolute and does not start with ~/", path.display())),
        },
    };
    Ok(Config {
        home: expand("home", config.home)?,
        versions_dir: expand("versions_dir", config.versions_dir)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_or_refused_with_its_reason() {
        let read = |text| parse(text, Path::new("/home/p")).map(|c| (c.home, c.versions_dir));
        assert_eq!(read("{}"), Ok((None, None)));
        assert_eq!(
            read(r#"{"home": "~/cvs", "versions_dir": "/srv/specs"}"#),
            Ok((Some("/home/p/cvs".into()), Some("/srv/specs".into())))
        );
        assert_eq!(
            read(r#"{"home": "cvs"}"#),
            Err("home: \"cvs\" is not absolute and does not start with ~/".to_owned())
        );
        assert_eq!(
            read(r#"{"hom": "/x"}"#),
            Err("unknown field `hom`, expected `home` or `versions_dir` at line 1 column 6".to_owned())
        );
    }
}
