//! The places where one tree can be seen, each of which can be mounted again with what was written to it.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::report::Times;
use crate::bench::measure::{Peer, clock};
use crate::failure::{Doing, Outcome};
use crate::lab::Lab;
use crate::project::is_root;
use crate::shell;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// The usual mount.
    Cvs,
    /// A mount of cvs without passthrough.
    OneConnection,
    Native,
    Overlayfs,
    FuseOverlayfs,
}

impl Form {
    pub(super) fn name(self) -> &'static str {
        match self {
            Form::Cvs => "cvs",
            Form::OneConnection => "one-connection",
            Form::Native => "native",
            Form::Overlayfs => "overlayfs",
            Form::FuseOverlayfs => "fuse-overlayfs",
        }
    }
}

/// A tree in one of its forms.
pub(super) struct Place<'a> {
    lab: &'a Lab,
    pub(super) form: Form,
    /// The version, where cvs shows it.
    id: String,
    source: PathBuf,
    at: PathBuf,
    mounted: Cell<bool>,
}

impl<'a> Place<'a> {
    pub(super) fn new(lab: &'a Lab, form: Form, id: &str, source: &Path) -> Outcome<Place<'a>> {
        let at = match form {
            Form::Native => source.to_path_buf(),
            form => lab.work("fs")?.join(id).join(form.name()),
        };
        Ok(Place {
            lab,
            form,
            id: id.to_owned(),
            source: source.to_path_buf(),
            at,
            mounted: Cell::new(false),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.at
    }

    /// Mounts it, with what was written to it before.
    pub(super) fn mount(&self) -> Outcome {
        let lab = self.lab;
        if self.mounted.replace(true) || self.form == Form::Native {
            return Ok(());
        }
        let dir = |name: &str| {
            let dir = self.at.with_extension(name);
            fs::create_dir_all(&dir).doing(|| format!("making {}", dir.display())).map(|()| dir)
        };
        fs::create_dir_all(&self.at).doing(|| format!("making {}", self.at.display()))?;
        let options = || -> Outcome<String> {
            let (upper, work) = (dir("upper")?, dir("work")?);
            let lower = self.source.display();
            Ok(format!("lowerdir={lower},upperdir={},workdir={}", upper.display(), work.display()))
        };
        let overlay = || dir("overlay");
        match self.form {
            Form::Native => Ok(()),
            Form::Cvs => shell::quiet(
                lab.cvs().args(["mount", &self.id]).arg(&self.at).arg("--overlay").arg(overlay()?),
            ),
            Form::OneConnection => {
                let mut mount = lab.cvs();
                mount.args(["mount", "--no-passthrough", &self.id]).arg(&self.at);
                shell::quiet(mount.arg("--overlay").arg(overlay()?))
            }
            Form::Overlayfs => {
                let mut mount = lab.command("mount");
                shell::quiet(mount.args(["-t", "overlay", "overlay", "-o", &options()?]).arg(&self.at))
            }
            Form::FuseOverlayfs => {
                shell::quiet(lab.command("fuse-overlayfs").args(["-o", &options()?]).arg(&self.at))
            }
        }
    }

    pub(super) fn umount(&self) -> Outcome {
        if !self.mounted.replace(false) {
            return Ok(());
        }
        match self.form {
            Form::Native => Ok(()),
            Form::Cvs | Form::OneConnection => self.lab.umount(&self.at),
            Form::Overlayfs | Form::FuseOverlayfs => shell::quiet(self.lab.command("umount").arg(&self.at)),
        }
    }

    /// Takes away what was written to it. It must not be mounted.
    pub(super) fn forget(&self) -> Outcome {
        for name in ["overlay", "upper", "work"] {
            let dir = self.at.with_extension(name);
            if self.form != Form::Native && dir.exists() {
                fs::remove_dir_all(&dir).doing(|| format!("removing {}", dir.display()))?;
            }
        }
        Ok(())
    }

    pub(super) fn remount(&self) -> Outcome {
        self.umount()?;
        self.mount()
    }
}

/// Makes a version of `source`.
pub(super) fn ingest(lab: &Lab, id: &str, source: &Path) -> Outcome {
    shell::quiet(lab.cvs().args(["debug", "ingest"]).arg(source).args(["--as", id]))
}

/// Whether this cvs can be told to do without passthrough.
pub(super) fn has_forms(lab: &Lab) -> Outcome<bool> {
    Ok(shell::output(lab.cvs().args(["mount", "--help"]))?.contains("--no-passthrough"))
}

/// `source` in every form, mounted. cvs has one more where `forms`.
pub(super) fn places<'a>(lab: &'a Lab, id: &str, source: &Path, forms: bool) -> Outcome<Vec<Place<'a>>> {
    ingest(lab, id, source)?;
    let mut wanted = vec![Form::Cvs];
    let one = format!("{id}-one");
    if forms {
        ingest(lab, &one, source)?;
        wanted.push(Form::OneConnection);
    }
    wanted.push(Form::Native);
    if is_root() {
        wanted.push(Form::Overlayfs);
    }
    wanted.push(Form::FuseOverlayfs);
    let mut places = Vec::new();
    for form in wanted {
        // Two mounts of one version would want one overlay.
        let id = if form == Form::OneConnection { &one } else { id };
        let place = Place::new(lab, form, id, source)?;
        place.mount()?;
        places.push(place);
    }
    Ok(places)
}

pub(super) fn umount_all(places: &[Place<'_>]) -> Outcome {
    places.iter().try_for_each(Place::umount)
}

/// Measures `body` in every place, in turns, each time after `prepare`, which is not measured.
pub(super) fn compare(
    lab: &Lab,
    places: &[Place<'_>],
    prepare: impl Fn(&Place<'_>) -> Outcome,
    body: impl Fn(&Place<'_>) -> Outcome<Duration>,
) -> Outcome<Times> {
    let (prepare, body) = (&prepare, &body);
    let mut peers: Vec<Peer<'_>> = places
        .iter()
        .map(|place| Peer {
            name: place.form.name(),
            prepare: Box::new(move || prepare(place)),
            body: Box::new(move || body(place)),
        })
        .collect();
    let medians = lab.compare(&mut peers)?;
    Ok(Times(places.iter().map(|place| place.form).zip(medians).collect()))
}

/// Runs a command and measures it from outside.
pub(super) fn timed(command: &mut std::process::Command) -> Outcome<Duration> {
    clock(|| shell::quiet(command))
}

/// Runs a Python script that prints the seconds it took, the interpreter's own start left out.
pub(super) fn scripted(lab: &Lab, script: &str, args: &[&Path]) -> Outcome<Duration> {
    let out = shell::output(lab.command("python3").args(["-I", "-S", "-c", script]).args(args))?;
    match out.trim().parse() {
        Ok(seconds) => Ok(Duration::from_secs_f64(seconds)),
        Err(_) => crate::failure::fail!("the script said '{}'", out.trim()),
    }
}
