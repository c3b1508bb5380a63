//! Real git servers on loopback: smart HTTP by `git http-backend`, and the git protocol by `git daemon`.
//!
//! Both serve every repository below one directory. [`Wants`] can be switched while they run. It limits what a client
//! that speaks protocol version 0 may ask for; version 2 lets any object be asked for, whatever the server is told.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tempfile::NamedTempFile;

use crate::git::isolate;
use crate::http::{Headers, Request, read_head};
use crate::http_server::{Body, HttpServer, Response};

/// Which commits a client may ask for by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Only what a branch or a tag points to: git's own default.
    Advertised,
    /// Also what can be reached from there (`uploadpack.allowReachableSHA1InWant`), as GitHub does.
    Reachable,
    /// Any object there is (`uploadpack.allowAnySHA1InWant`).
    Any,
}

/// The configuration file that the git programs of one server read as the person's.
#[derive(Clone)]
struct Settings(Arc<NamedTempFile>);

impl Settings {
    fn new(wants: Wants) -> Self {
        let settings = Settings(Arc::new(NamedTempFile::new().expect("making a temporary file")));
        settings.set(wants);
        settings
    }

    fn set(&self, wants: Wants) {
        // Only what is true: a false for "any" takes "reachable" away too.
        let text = match wants {
            Wants::Advertised => "",
            Wants::Reachable => "[uploadpack]\n\tallowReachableSHA1InWant = true\n",
            Wants::Any => "[uploadpack]\n\tallowAnySHA1InWant = true\n",
        };
        std::fs::write(self.0.path(), text).expect("writing a temporary file");
    }

    fn apply(&self, command: &mut Command) {
        isolate(command);
        command.env("GIT_CONFIG_GLOBAL", self.0.path());
    }
}

/// Smart HTTP. Its [`HttpServer`] records the requests and takes faults.
pub struct GitHttpServer {
    http: HttpServer,
    settings: Settings,
    key: Arc<Mutex<Option<String>>>,
}

impl GitHttpServer {
    /// Serves the repositories below `root`.
    pub fn start(root: &Path, wants: Wants) -> Self {
        let server =
            GitHttpServer { http: HttpServer::start(), settings: Settings::new(wants), key: Arc::default() };
        let (root, settings, key) = (root.to_owned(), server.settings.clone(), Arc::clone(&server.key));
        server.http.route("/", move |request| {
            let key = key.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
            match key.is_none() || request.header("authorization") == key.as_deref() {
                true => http_backend(&root, &settings, request),
                false => Response::new(401, "").header("WWW-Authenticate", "Basic realm=\"git\""),
            }
        });
        server
    }

    /// `http://127.0.0.1:PORT/NAME.git`.
    pub fn url(&self, name: &str) -> String {
        self.http.url(&format!("/{name}.git"))
    }

    /// The URL that all repositories are below, without a slash at its end.
    pub fn base(&self) -> String {
        self.http.url("")
    }

    /// The server under it, for faults and for the requests that came.
    pub fn http(&self) -> &HttpServer {
        &self.http
    }

    /// From the next request on.
    pub fn set_wants(&self, wants: Wants) {
        self.settings.set(wants);
    }

    /// From the next request on, only requests with this `Authorization` are answered.
    pub fn close(&self, authorization: &str) {
        *self.key.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(authorization.to_owned());
    }
}

fn http_backend(root: &Path, settings: &Settings, request: &Request) -> Response {
    let mut command = Command::new("git");
    settings.apply(&mut command);
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", &request.path)
        .env("QUERY_STRING", &request.query)
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("REMOTE_ADDR", "127.0.0.1");
    for (variable, header) in [
        ("CONTENT_TYPE", "content-type"),
        ("HTTP_CONTENT_ENCODING", "content-encoding"),
        ("GIT_PROTOCOL", "git-protocol"),
    ] {
        if let Some(value) = request.header(header) {
            command.env(variable, value);
        }
    }
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.expect("starting git http-backend");
    let mut stdin = child.stdin.take().expect("a piped stdin");
    let body = request.body.clone();
    // A program that refuses a request may end without reading it.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&body)));
    let output = child.wait_with_output().expect("waiting for git http-backend");
    writer.join().expect("writing a request body does not panic");
    cgi_response(&output.stdout).unwrap_or_else(|| Response::new(500, "git http-backend failed\n"))
}

/// A CGI answer: header fields, `Status` among them, an empty line, the body (RFC 3875, 6).
fn cgi_response(output: &[u8]) -> Option<Response> {
    // A head on the wire has a first line before its fields; a CGI answer has none.
    let mut bytes = [b"CGI\r\n", output].concat();
    let mut rest = &bytes[..];
    let (_, mut headers): (String, Headers) = read_head(&mut rest).ok()??;
    let status = headers.get("status").map_or(Some(200), |status| status.split(' ').next()?.parse().ok())?;
    headers.remove("status");
    let body = bytes.split_off(bytes.len() - rest.len());
    Some(Response { status, headers, body: Body::Bytes(body.into()) })
}

/// The git protocol: one `git daemon --inetd` for each connection.
pub struct GitDaemon {
    address: SocketAddr,
    settings: Settings,
    stopping: Arc<AtomicBool>,
    children: Arc<Mutex<Vec<(Child, TcpStream)>>>,
    listening: Option<JoinHandle<()>>,
}

impl GitDaemon {
    /// Serves the repositories below `root`.
    pub fn start(root: &Path, wants: Wants) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("binding a port of 127.0.0.1");
        let address = listener.local_addr().expect("the address of a bound port");
        let mut daemon = GitDaemon {
            address,
            settings: Settings::new(wants),
            stopping: Arc::default(),
            children: Arc::default(),
            listening: None,
        };
        let (settings, stopping, children) =
            (daemon.settings.clone(), Arc::clone(&daemon.stopping), Arc::clone(&daemon.children));
        let (root, program) = (root.to_owned(), daemon_program());
        daemon.listening = Some(std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopping.load(Ordering::SeqCst) {
                    return;
                }
                let child = inetd(&program, &root, &settings, &stream).expect("starting git daemon");
                let mut children = children.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                children.retain_mut(|(child, _)| !matches!(child.try_wait(), Ok(Some(_))));
                children.push((child, stream));
            }
        }));
        daemon
    }

    /// `git://127.0.0.1:PORT`, that all repositories are below.
    pub fn base(&self) -> String {
        format!("git://{}", self.address)
    }

    /// `git://127.0.0.1:PORT/NAME.git`.
    pub fn url(&self, name: &str) -> String {
        format!("git://{}/{name}.git", self.address)
    }

    /// From the next connection on.
    pub fn set_wants(&self, wants: Wants) {
        self.settings.set(wants);
    }
}

/// The program itself: `git daemon` would start it as a child, and killing git would leave it behind.
fn daemon_program() -> PathBuf {
    let output = Command::new("git").arg("--exec-path").output().expect("starting git");
    Path::new(String::from_utf8_lossy(&output.stdout).trim_end()).join("git-daemon")
}

fn inetd(program: &Path, root: &Path, settings: &Settings, stream: &TcpStream) -> std::io::Result<Child> {
    let mut command = Command::new(program);
    settings.apply(&mut command);
    command
        .args(["--inetd", "--export-all", "--log-destination=none"])
        .arg(format!("--base-path={}", root.display()))
        .stdin(Stdio::from(OwnedFd::from(stream.try_clone()?)))
        .stdout(Stdio::from(OwnedFd::from(stream.try_clone()?)))
        .stderr(Stdio::null())
        .spawn()
}

impl Drop for GitDaemon {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
        let mut children = self.children.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for (child, stream) in children.iter_mut() {
            // What git daemon itself has started sees the end of its input.
            let _ = stream.shutdown(Shutdown::Both);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LIBRARY, Repositories, SubmoduleUrl, get};

    /// `git fetch` of one commit by protocol version 0; whether it came.
    fn fetch(repositories: &Repositories, dir: &Path, url: &str, commit: &str) -> bool {
        let target = dir.join(format!("fetched-{}", std::fs::read_dir(dir).unwrap().count()));
        std::fs::create_dir(&target).unwrap();
        repositories.git().run(&target, &["init", "-q"]);
        let mut command = repositories.git().command(&target);
        command.args(["-c", "protocol.version=0", "fetch", "-q", "--depth=1", url, commit]);
        command.output().unwrap().status.success()
    }

    #[test]
    fn both_servers_serve_and_obey_their_switch() {
        let dir = tempfile::tempdir().unwrap();
        let repositories = Repositories::build(dir.path(), &SubmoduleUrl::Relative);
        // v0.1.0 is a tag of its own, so its commit is advertised; only an untagged one shows the difference.
        let middle = repositories.commit(LIBRARY, "master", &[("a", Some(b"1"))]);
        repositories.commit(LIBRARY, "master", &[("a", Some(b"2"))]);
        let tip = repositories.commit_id(LIBRARY, "master");
        let tree = repositories.work.join(LIBRARY);
        let unreachable = repositories.git().run(&tree, &["commit-tree", "-m", "lost", "HEAD^{tree}"]);
        repositories.git().run(&tree, &["push", "-q", "origin", &format!("{unreachable}:refs/heads/lost")]);
        repositories.git().run(&repositories.path(LIBRARY), &["update-ref", "-d", "refs/heads/lost"]);

        let http = GitHttpServer::start(repositories.served(), Wants::Advertised);
        let daemon = GitDaemon::start(repositories.served(), Wants::Advertised);
        for (wants, expected) in [
            (Wants::Advertised, [true, false, false]),
            (Wants::Reachable, [true, true, false]),
            (Wants::Any, [true, true, true]),
        ] {
            http.set_wants(wants);
            daemon.set_wants(wants);
            for url in [http.url(LIBRARY), daemon.url(LIBRARY)] {
                let got = [&tip, &middle, &unreachable]
                    .map(|commit| fetch(&repositories, dir.path(), &url, commit));
                assert_eq!(got, expected, "{wants:?} {url}");
            }
        }
        assert_eq!(get(&http.http().url("/nothing.git/info/refs?service=git-upload-pack")).status, 404);
    }
}
