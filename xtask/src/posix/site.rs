//! The filesystems under test. Each shows the same tree, in which the suites work in the same places.

use std::fs;
use std::path::{Path, PathBuf};

use super::{MERGED, MODELS, OWN, Place, fsx};
use crate::failure::{Doing, Outcome};
use crate::lab::Lab;
use crate::shell;

/// What a filesystem is to the report.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A form of ours.
    Ours,
    /// What ours is measured by.
    Native,
    /// What people use today.
    Peer,
}

/// A filesystem under test, and where it shows the tree.
pub(super) struct Site {
    pub(super) filesystem: &'static str,
    pub(super) role: Role,
    root: PathBuf,
    models: bool,
}

impl Site {
    pub(super) fn at(&self, place: Place) -> PathBuf {
        self.root.join(place.dir)
    }

    /// Whether its models may behave otherwise than the rest of the tree; native's are what they are compared with.
    pub(super) fn has_models(&self) -> bool {
        self.models
    }
}

/// Ours first, in each of its forms, then native. Native is a filesystem of its own, which can be mounted
/// read-only, of the type that holds the layers of the others.
pub(super) fn sites(lab: &Lab, peers: bool) -> Outcome<Vec<Site>> {
    let source = lab.work("source")?;
    for place in [MERGED, MODELS] {
        let dir = source.join(place.dir);
        fs::create_dir(&dir).doing(|| format!("making {}", dir.display()))?;
        fsx::furnish(&dir, place)?;
    }
    let ours = |id, options: &[&str]| {
        shell::quiet(lab.cvs().args(["debug", "ingest"]).arg(&source).args(["--as", id]))?;
        lab.mount(id, &[&["--allow-other"], options].concat())
    };
    let site = |filesystem, role, root, models| Site { filesystem, role, root, models };
    let mut sites = vec![
        site("cvs", Role::Ours, ours("posix", &[])?, true),
        site("cvs, one connection", Role::Ours, ours("posix-one", &["--no-passthrough"])?, false),
        site("native", Role::Native, native(lab, &source)?, true),
    ];
    if peers {
        sites.push(site("overlayfs", Role::Peer, lab.overlayfs(&source)?, false));
        sites.push(site("fuse-overlayfs", Role::Peer, lab.fuse_overlayfs(&source)?, false));
    }
    for site in &sites {
        let own = site.at(OWN);
        fs::create_dir(&own).doing(|| format!("making {}", own.display()))?;
    }
    Ok(sites)
}

/// A filesystem with a copy of the tree.
fn native(lab: &Lab, source: &Path) -> Outcome<PathBuf> {
    let root = lab.filesystem("native")?;
    shell::quiet(lab.command("cp").arg("-a").arg(source.join(".")).arg(&root))?;
    Ok(root)
}
