//! A real nginx that serves one directory on loopback.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::Missing;
use crate::wait::{free_port, wait_for};

/// A running nginx; it ends when dropped.
pub struct Nginx {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Nginx {
    /// Serves the files below `root`.
    pub fn start(root: &Path) -> Result<Nginx, Missing> {
        let program = find().ok_or_else(|| Missing("nginx (apt-get install nginx-light)".to_owned()))?;
        // Another process may bind the free port first; nginx then ends at once.
        for _ in 0..5 {
            if let Some(nginx) = try_start(&program, root) {
                return Ok(nginx);
            }
        }
        panic!("nginx does not start");
    }

    /// The URL of a path, which starts with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// One line for each request answered so far: method, path, status, bytes of the body, range.
    pub fn access_log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian has it in /usr/sbin, which is not on everyone's PATH.
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join("nginx"))
        .find(|path| path.is_file())
}

fn try_start(program: &Path, root: &Path) -> Option<Nginx> {
    let dir = tempfile::tempdir().expect("making a temporary directory");
    let port = free_port();
    let here = dir.path().display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {here}/{name};\n"))
        .concat();
    // One process, so that it runs as the user who started it and is gone when it is killed.
    let config = format!(
        "daemon off;\nmaster_process off;\npid {here}/pid;\nerror_log {here}/error.log;\nevents {{}}\nhttp {{\n\
         {temporary}    log_format short '$request_method $uri $status $body_bytes_sent $http_range';\n    \
         access_log {here}/access.log short;\n    server {{\n        listen 127.0.0.1:{port};\n        \
         root '{}';\n        sendfile on;\n    }}\n}}\n",
        root.display()
    );
    let config_path = dir.path().join("nginx.conf");
    fs::write(&config_path, config).expect("writing nginx.conf");
    let child = Command::new(program)
        .arg("-c")
        .arg(&config_path)
        .arg("-p")
        .arg(dir.path())
        .args(["-e", "error.log"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starting nginx");
    let mut nginx = Nginx { child, port, dir };
    let running = wait_for(Duration::from_secs(20), "nginx listens or ends", || {
        if nginx.child.try_wait().expect("asking for nginx").is_some() {
            return Some(false);
        }
        TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(true)
    });
    running.then_some(nginx)
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{available, send, wait_until};

    #[test]
    fn nginx_serves_a_directory_with_ranges() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a.bin"), b"0123456789").unwrap();
        let Some(nginx) = available(Nginx::start(root.path())) else { return };
        let reply = send("GET", &nginx.url("/a.bin"), &[("Range", "bytes=3-5")], b"").unwrap();
        assert_eq!((reply.status, reply.body.as_slice()), (206, &b"345"[..]));
        assert_eq!(send("GET", &nginx.url("/b.bin"), &[], b"").unwrap().status, 404);
        wait_until(Duration::from_secs(10), "both requests are logged", || nginx.access_log().len() == 2);
        assert_eq!(nginx.access_log()[0], "GET /a.bin 206 3 bytes=3-5");
    }
}
