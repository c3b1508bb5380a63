//! A model of 4 GiB from nginx on loopback: cvs, which takes SHA-256 and BLAKE3 on the way and makes it durable, against
//! what people use, aria2c over eight connections and curl over one, each with the checksum taken after it. The peers
//! are not asked to sync.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::data;
use super::measure::{self, Peer};
use crate::failure::{Doing, Outcome, fail};
use crate::lab::Lab;
use crate::project::find_program;
use crate::shell;
use crate::table::{Table, bytes, ratio, time};

const PORT: u16 = 18_437;

pub(super) fn run(lab: &Lab) -> Outcome {
    let size = lab.size(4 << 30, 256 << 20);
    let root = data::model(lab, size)?;
    let server = Nginx::start(&lab.work("nginx")?, &root)?;
    let url = format!("http://127.0.0.1:{PORT}/{}", data::MODEL);
    let copies = lab.work("copies")?;
    let fresh = || {
        lab.empty(&copies)?;
        lab.empty(&lab.home())?;
        // Every peer is served from memory.
        shell::quiet(&mut lab.sh(r#"cat "$1" > /dev/null"#, &[&root.join(data::MODEL)]))?;
        lab.settle()
    };
    let sh = |script: &str| {
        let mut command = lab.sh(script, &[&copies]);
        command.env("URL", &url);
        shell::quiet(&mut command)
    };
    let aria = r#"aria2c -q -x 8 -s 8 -k 1M --file-allocation=falloc -d "$1" -o f "$URL""#;
    let peak = Cell::new(0);
    let fetch = || {
        let (took, memory) = measure::watched(lab.cvs().args(["fetch", &url]))?;
        peak.set(peak.get().max(memory));
        Ok(took)
    };
    let mut peers = [
        Peer { name: "cvs", prepare: Box::new(fresh), body: Box::new(fetch) },
        Peer::timed("aria2c, sha256sum", || sh(&format!(r#"{aria} && sha256sum "$1/f" > "$1/sum""#)))
            .after(fresh),
        Peer::timed("aria2c", || sh(aria)).after(fresh),
        Peer::timed("curl, sha256sum", || sh(r#"curl -s -o "$1/f" "$URL" && sha256sum "$1/f" > "$1/sum""#))
            .after(fresh),
    ];
    let [ours, checked, aria2, curl] = lab.compare(&mut peers)?[..] else { return Ok(()) };
    drop(peers);
    drop(server);
    let mut table = Table::new(&[
        "what",
        "cvs",
        "aria2c -x 8, sha256sum",
        "aria2c -x 8",
        "curl, sha256sum",
        "cvs / aria2c, sha256sum",
    ]);
    table.row(vec![bytes(size), time(ours), time(checked), time(aria2), time(curl), ratio(ours, checked)]);
    table.print();
    println!("Peak of cvs's memory: {}\n", bytes(peak.get()));
    Ok(())
}

/// A server of one directory; it ends when dropped.
struct Nginx(Child);

impl Nginx {
    fn start(dir: &Path, root: &Path) -> Outcome<Self> {
        let Some(program) = find_program("nginx") else { fail!("nginx is not there") };
        let here = dir.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {here}/{name};\n"))
            .concat();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {here}/pid;\nerror_log {here}/error.log;\nevents {{}}\nhttp {{\n\
             {temporary}access_log off;\nsendfile on;\nserver {{\nlisten 127.0.0.1:{PORT};\nroot '{}';\n}}\n}}\n",
            root.display()
        );
        let file = dir.join("nginx.conf");
        fs::write(&file, config).doing(|| format!("writing {}", file.display()))?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&file).arg("-p").arg(dir).args(["-e", "error.log"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut nginx = Nginx(command.spawn().doing(|| "starting nginx".to_owned())?);
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", PORT)).is_err() {
            let ended = nginx.0.try_wait().doing(|| "asking for nginx".to_owned())?.is_some();
            if ended || Instant::now() > deadline {
                fail!("nginx does not listen on port {PORT}");
            }
            std::thread::yield_now();
        }
        Ok(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
