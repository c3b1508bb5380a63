//! `cvs package`.

use clap::{Args, Subcommand};
use cvs_versions::spec::{List, SpecDocument, VersionId};

use super::shared::{EditArgs, edit};
use crate::context::Context;
use crate::error::{CliError, Exit};

/// Add Python packages to a version, or remove them.
#[derive(Debug, Args)]
pub(crate) struct PackageArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Add requirements besides those of core and nodes, and lock again. One for a package that is there already takes its
    /// place. When the lock fails, the spec is left as it was.
    Add {
        /// The version.
        id: VersionId,

        /// A requirement, such as `numpy<2`.
        #[arg(required = true, value_name = "REQUIREMENT")]
        requirements: Vec<String>,

        #[command(flatten)]
        edit: EditArgs,
    },
    /// Remove requirements, and lock again. When that fails, the spec is left as it was.
    Rm {
        /// The version.
        id: VersionId,

        /// The name of a package, or a requirement as it stands in the spec.
        #[arg(required = true, value_name = "PACKAGE")]
        packages: Vec<String>,

        #[command(flatten)]
        edit: EditArgs,
    },
    /// List the requirements that the spec adds to those of core and nodes.
    Ls {
        /// The version.
        id: VersionId,
    },
}

pub(crate) fn run(context: &Context, args: &PackageArgs) -> Result<Exit, CliError> {
    match &args.what {
        What::Add { id, requirements, edit: options } => edit(context, id, options, &|document| {
            let (replaced, _) = find(document, requirements);
            document.remove_at(List::Packages, &replaced)?;
            document.append(List::Packages, requirements.iter().map(|text| text.as_str().into()).collect())
        }),
        What::Rm { id, packages, edit: options } => {
            if let (_, Some(found)) = find(&context.workspace()?.read(id)?, packages) {
                let known = context.workspace()?.read(id)?.spec().python_packages.clone();
                return Err(CliError::NotInSpec { id: id.to_string(), what: "package", found, known });
            }
            edit(context, id, options, &|document| {
                let (found, _) = find(document, packages);
                document.remove_at(List::Packages, &found)
            })
        }
        What::Ls { id } => {
            let document = context.workspace()?.read(id)?;
            let packages = &document.spec().python_packages;
            match context.output().is_json() {
                true => context.output().json(packages)?,
                false => {
                    for package in packages {
                        context.output().data(package)?;
                    }
                }
            }
            Ok(Exit::Ok)
        }
    }
}

/// The places of the requirements for these packages, and the first that has none.
fn find(document: &SpecDocument, wanted: &[String]) -> (Vec<usize>, Option<String>) {
    let items: Vec<&str> =
        document.items(List::Packages).iter().map(|item| item.as_str().unwrap_or_default()).collect();
    let means =
        |item: &str, wanted: &str| item == wanted || (!name(item).is_empty() && name(item) == name(wanted));
    let missing = wanted.iter().find(|text| !items.iter().any(|item| means(item, text))).cloned();
    let found = items.iter().enumerate().filter(|(_, item)| wanted.iter().any(|text| means(item, text)));
    (found.map(|(place, _)| place).collect(), missing)
}

/// The name of the package that a requirement is for, as indexes compare it (PEP 503).
fn name(requirement: &str) -> String {
    // A bare address does not say whose it is.
    if requirement.contains("://") && !requirement.contains('@') {
        return String::new();
    }
    let end = requirement.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')));
    let name = &requirement[..end.unwrap_or(requirement.len())];
    let parts: Vec<&str> = name.split(['.', '_', '-']).filter(|part| !part.is_empty()).collect();
    parts.join("-").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_for_one_package_have_one_name() {
        for (requirement, expected) in [
            ("numpy<2", "numpy"),
            ("Foo_Bar.baz [extra] >= 1", "foo-bar-baz"),
            ("x @ https://h/x.whl", "x"),
            ("https://h/x.whl", ""),
            ("", ""),
        ] {
            assert_eq!(name(requirement), expected, "{requirement}");
        }
    }
}
