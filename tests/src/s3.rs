//! A real S3 server on loopback: the program of the `s3s-fs` crate over a directory of its own.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::Missing;
use crate::tools::tool;
use crate::wait::{free_port, wait_for};

/// The key that opens every [`S3Server`].
pub const S3_KEY: &str = "AKIDEXAMPLE";
/// Its secret.
pub const S3_SECRET: &str = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY";

/// A running server; it ends when dropped.
pub struct S3Server {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl S3Server {
    /// One without buckets.
    pub fn start() -> Result<Self, Missing> {
        let program = tool("s3s-fs")?;
        // Another process may bind the free port first; the server then ends at once.
        for _ in 0..5 {
            if let Some(server) = try_start(&program) {
                return Ok(server);
            }
        }
        panic!("s3s-fs does not start");
    }

    /// Puts an object; its bucket is made when there is none.
    pub fn put(&self, bucket: &str, name: &str, bytes: &[u8]) {
        let path = self.dir.path().join(bucket).join(name);
        std::fs::create_dir_all(path.parent().expect("an object lies in a bucket"))
            .and_then(|()| std::fs::write(&path, bytes))
            .unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
    }

    /// The variables by which programs find it and are let in.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port)),
            ("AWS_ACCESS_KEY_ID", S3_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", S3_SECRET.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
    }
}

fn try_start(program: &Path) -> Option<S3Server> {
    let dir = tempfile::tempdir().expect("making a temporary directory");
    let port = free_port();
    let child = Command::new(program)
        .args(["--host", "127.0.0.1", "--port", &port.to_string()])
        .args(["--access-key", S3_KEY, "--secret-key", S3_SECRET])
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starting s3s-fs");
    let mut server = S3Server { child, port, dir };
    let running = wait_for(Duration::from_secs(20), "s3s-fs listens or ends", || {
        if server.child.try_wait().expect("asking for s3s-fs").is_some() {
            return Some(false);
        }
        TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(true)
    });
    running.then_some(server)
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
