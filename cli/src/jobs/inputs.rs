//! Files that are put in the place of others in a workflow: checked before anything starts, uploaded under names of
//! their own, and taken away again from the version when the run has ended.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use cvs_versions::comfy::Client;
use cvs_versions::fetch::{fetch, web_address};
use cvs_versions::workflow::{ObjectInfo, Prompt};
use sha2::{Digest, Sha256};

use super::record::hex;
use super::{InputRecord, JobsError};
use crate::context::Context;
use crate::error::CliError;

/// The largest file that is fetched for an input.
const LIMIT: u64 = 16 << 30;

/// What `--input` asks for.
pub(crate) struct Inputs {
    given: Vec<Given>,
}

struct Given {
    argument: String,
    name: String,
    source: String,
    file: Option<PathBuf>,
}

impl Inputs {
    /// Reads `NAME=FILE` and `NAME=URL`. Files must be there.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, CliError> {
        let mut given = Vec::new();
        for argument in arguments {
            let usage = || CliError::Usage(format!("--input {argument}: expected NAME=FILE or NAME=URL"));
            let (name, source) = argument.split_once('=').ok_or_else(usage)?;
            if name.is_empty() || source.is_empty() {
                return Err(usage());
            }
            let file = match web_address(source) {
                Some(_) => None,
                None => {
                    let path = PathBuf::from(source);
                    File::open(&path).map_err(JobsError::io("read", &path))?;
                    Some(path)
                }
            };
            given.push(Given {
                argument: format!("--input {argument}"),
                name: name.to_owned(),
                source: source.to_owned(),
                file,
            });
        }
        Ok(Self { given })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// Uploads each, and puts its new name into the inputs that are meant. `root` is where the version runs.
    pub(crate) fn put(
        &self,
        context: &Context,
        client: &Client,
        prompt: &mut Prompt,
        info: &ObjectInfo,
        root: Option<&Path>,
    ) -> Result<(Vec<InputRecord>, Uploads), CliError> {
        let mut uploads = Uploads { directory: root.map(|root| root.join("input")), names: Vec::new() };
        let mut records = Vec::new();
        // What a name means is asked of the workflow as it came, so that one input does not hide another.
        let mut targets = Vec::new();
        for given in &self.given {
            let found = prompt.inputs_of_file(&given.name, Some(info));
            targets.push(found.map_err(|source| JobsError::Change {
                argument: given.argument.clone(),
                source: source.into(),
            })?);
        }
        for (given, targets) in self.given.iter().zip(targets) {
            let fetched;
            let path = match &given.file {
                Some(path) => path,
                None => {
                    fetched = Fetched::get(context, &given.source)?;
                    &fetched.path
                }
            };
            let (size, sha256) = digest(path)?;
            let shown = web_address(&given.source).map_or_else(
                || given.source.clone(),
                |url| {
                    url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default().to_owned()
                },
            );
            let uploaded = client.upload(path, &shown, context.cancel()).map_err(JobsError::from)?;
            let reference = uploaded.reference();
            uploads.names.push(reference.clone());
            for (node, input) in targets {
                prompt.set_file(&node, &input, &reference);
                records.push(InputRecord {
                    name: given.name.clone(),
                    node,
                    input,
                    source: without_secrets(&given.source),
                    size,
                    sha256: sha256.clone(),
                    uploaded: reference.clone(),
                });
            }
        }
        Ok((records, uploads))
    }
}

/// Files that a server was given for this run. Dropped, they are taken away.
pub(crate) struct Uploads {
    directory: Option<PathBuf>,
    names: Vec<String>,
}

impl Drop for Uploads {
    fn drop(&mut self) {
        for name in &self.names {
            if let Some(path) = self.directory.as_ref().map(|directory| directory.join(name)) {
                // It may be elsewhere, or gone with the server already; it is in nobody's way.
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// A file from the web, for the time that it is needed.
struct Fetched {
    path: PathBuf,
}

impl Fetched {
    fn get(context: &Context, source: &str) -> Result<Self, CliError> {
        let url = web_address(source)
            .ok_or_else(|| CliError::Usage(format!("{source:?} is no http or https address")))?;
        let directory = context.store()?.home().join("run/tmp");
        fs::create_dir_all(&directory).map_err(JobsError::io("make", &directory))?;
        let path = directory.join(format!("input-{}-{:016x}", std::process::id(), super::record::random()));
        let file = File::create_new(&path).map_err(JobsError::io("create", &path))?;
        let fetched = Self { path };
        let mut writer = BufWriter::with_capacity(1 << 20, file);
        fetch(&url, &mut writer, LIMIT, context.cancel()).map_err(JobsError::from)?;
        writer.flush().map_err(JobsError::io("write", &fetched.path))?;
        Ok(fetched)
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        // The directory is our own; what is left in it does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

fn digest(path: &Path) -> Result<(u64, String), CliError> {
    let mut file = File::open(path).map_err(JobsError::io("read", path))?;
    let (mut digest, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer).map_err(JobsError::io("read", path))?;
        if read == 0 {
            return Ok((size, hex(&digest.finalize())));
        }
        digest.update(&buffer[..read]);
        size += read as u64;
    }
}

/// An address without what signs it or names a person.
pub(super) fn without_secrets(source: &str) -> String {
    match web_address(source) {
        Some(mut url) => {
            url.set_query(None);
            url.set_fragment(None);
            // Neither fails for an address of the web.
            let _ = url.set_password(None);
            let _ = url.set_username("");
            url.into()
        }
        None => source.to_owned(),
    }
}
