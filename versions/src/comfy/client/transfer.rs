//! Files to and from a ComfyUI, streamed.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use reqwest::multipart::{Form, Part};
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::super::http::patient;
use super::super::outputs::FileRef;
use super::{Client, ClientError, LONG, escaped};

/// How long a transfer may stand still.
const STALL: Duration = Duration::from_secs(120);
/// How long a whole upload may take.
const UPLOAD: Duration = Duration::from_secs(3600);
/// Where uploads go, below `input/`.
const SUBFOLDER: &str = "cvs";
/// The longest file name that Linux filesystems take, less room for a number.
const NAME: usize = 240;

/// A file that a server has been given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// Its name there.
    pub name: String,
    /// Its directory below `input/`.
    pub subfolder: String,
}

impl Uploaded {
    /// How an input of a node names it.
    pub fn reference(&self) -> String {
        match self.subfolder.as_str() {
            "" => self.name.clone(),
            folder => format!("{folder}/{}", self.name),
        }
    }
}

/// What came of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes.
    pub size: u64,
    /// Their sha256.
    pub sha256: [u8; 32],
}

impl Client {
    /// Puts a file into `input/`, under a name that nobody else has; `name` is kept as its end, so that what goes by
    /// extension still does.
    pub fn upload(&self, file: &Path, name: &str, cancel: &AtomicBool) -> Result<Uploaded, ClientError> {
        let part = async { Part::file(file).await.map_err(ClientError::io("read", file)) };
        self.upload_part(part, name, cancel)
    }

    /// The same with bytes.
    pub fn upload_bytes(
        &self,
        bytes: Vec<u8>,
        name: &str,
        cancel: &AtomicBool,
    ) -> Result<Uploaded, ClientError> {
        self.upload_part(async { Ok(Part::bytes(bytes)) }, name, cancel)
    }

    fn upload_part(
        &self,
        part: impl Future<Output = Result<Part, ClientError>>,
        name: &str,
        cancel: &AtomicBool,
    ) -> Result<Uploaded, ClientError> {
        let unique = format!("{}-{}", &Uuid::new_v4().simple().to_string()[..12], ascii_name(name));
        let path = "/upload/image";
        let exchange = async {
            let part = part.await?;
            // Without `overwrite` the server keeps what is there, whoever put it.
            let form = Form::new()
                .text("type", "input")
                .text("subfolder", SUBFOLDER)
                .part("image", part.file_name(unique));
            let request = self.request(reqwest::Method::POST, path)?.multipart(form);
            let response = request.send().await.map_err(|error| self.failed(path, &error))?;
            let status = response.status();
            let text = response.bytes().await.map_err(|error| self.failed(path, &error))?;
            if !status.is_success() {
                return Err(self.refused(path, status, &text));
            }
            serde_json::from_slice::<Value>(&text)
                .map_err(|error| self.unexpected(path, format!("not JSON: {error}")))
        };
        let answer = self
            .block_on(patient(exchange, UPLOAD, cancel))?
            .unwrap_or_else(|waited| Err(self.gave_up(path, waited, UPLOAD)))?;
        let field = |key: &str| answer[key].as_str().map(str::to_owned);
        match (field("name"), field("subfolder")) {
            (Some(name), subfolder) => Ok(Uploaded { name, subfolder: subfolder.unwrap_or_default() }),
            (None, _) => Err(self.unexpected(path, "no name of the file")),
        }
    }

    /// `GET /view`: writes an output to a new file at `to`; nothing is left there after an error.
    pub fn download(&self, file: &FileRef, to: &Path, cancel: &AtomicBool) -> Result<Fetched, ClientError> {
        let created = File::options().write(true).create_new(true).open(to);
        let mut writer = BufWriter::with_capacity(1 << 20, created.map_err(ClientError::io("create", to))?);
        let fetched = self.view(file, &mut writer, to, cancel).and_then(|fetched| {
            writer.flush().map_err(ClientError::io("write", to))?;
            Ok(fetched)
        });
        if fetched.is_err() {
            // The error at hand says more than this one would.
            let _ = std::fs::remove_file(to);
        }
        fetched
    }

    /// `GET /view`: writes an output to `to`, which `name` stands for in messages.
    pub fn view(
        &self,
        file: &FileRef,
        to: &mut dyn Write,
        name: &Path,
        cancel: &AtomicBool,
    ) -> Result<Fetched, ClientError> {
        let path = format!(
            "/view?filename={}&subfolder={}&type={}",
            escaped(&file.filename),
            escaped(&file.subfolder),
            escaped(&file.folder)
        );
        let request = self.request(reqwest::Method::GET, &path)?;
        let exchange = async {
            let sent = patient(request.send(), LONG, cancel).await;
            let sent = sent.map_err(|waited| self.gave_up(&path, waited, LONG))?;
            let mut response = sent.map_err(|error| self.failed(&path, &error))?;
            if !response.status().is_success() {
                let status = response.status();
                let text = patient(response.bytes(), STALL, cancel).await;
                let text = text.ok().and_then(Result::ok).unwrap_or_default();
                return Err(self.refused(&path, status, &text));
            }
            let (mut size, mut digest) = (0, Sha256::new());
            loop {
                let chunk = patient(response.chunk(), STALL, cancel).await;
                let chunk = chunk.map_err(|waited| self.gave_up(&path, waited, STALL))?;
                let Some(chunk) = chunk.map_err(|error| self.failed(&path, &error))? else { break };
                digest.update(&chunk);
                size += chunk.len() as u64;
                to.write_all(&chunk).map_err(ClientError::io("write", name))?;
            }
            Ok(Fetched { size, sha256: digest.finalize().into() })
        };
        self.block_on(exchange)?
    }
}

/// The last part of a name that came from elsewhere, fit to be a file's name in a directory of ours.
pub fn safe_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or("");
    let mut kept: String = last.chars().filter(|c| !c.is_control()).collect();
    while kept.len() > NAME {
        // The extension is at the end, so the beginning gives way.
        kept.remove(0);
    }
    match kept.trim_start_matches('.') {
        "" => "file".to_owned(),
        // A name that begins with a dot would hide the file from who looks for it.
        visible => visible.to_owned(),
    }
}

fn ascii_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = safe_name(name).chars().map(plain).collect();
    name[name.len().saturating_sub(80)..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_elsewhere_stay_in_their_directory() {
        for (name, safe) in [
            ("a b.png", "a b.png"),
            ("../../etc/passwd", "passwd"),
            ("..\\..\\boot.ini", "boot.ini"),
            ("/", "file"),
            ("..", "file"),
            ("", "file"),
            ("a/..", "file"),
            (".hidden", "hidden"),
            ("x\u{0}\n.png", "x.png"),
            ("日本.png", "日本.png"),
        ] {
            assert_eq!(safe_name(name), safe, "{name:?}");
        }
        let long = safe_name(&format!("{}.png", "é".repeat(300)));
        assert!(long.len() <= NAME && long.ends_with("é.png"));
        assert_eq!(ascii_name("日 本.png"), "___.png");
        assert_eq!(ascii_name(&"x".repeat(200)).len(), 80);
    }
}
