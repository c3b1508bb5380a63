//! `cargo xtask setup`: brings what the project needs and is not there.
//!
//! Each need is looked for by what it provides (a command, a pkg-config module, a working `python3 -m venv`), so
//! that something installed by other means counts. Only what is missing is installed: by apt-get as root; as
//! anyone else the exact command to run is printed. What comes from crates.io and from the Python package index goes
//! under the target directory.

mod python;

use std::path::Path;
use std::process::Command;

use crate::failure::{Doing, Failure, Outcome, fail};
use crate::project::{Project, find_program, is_root};
use crate::shell;

/// How a need is recognised as met.
enum Probe {
    Program(&'static str),
    /// Any of these.
    OneOf(&'static [&'static str]),
    PkgConfig(&'static str),
    Venv,
}

struct Need {
    package: &'static str,
    probe: Probe,
    why: &'static str,
}

/// What building and testing take.
const NEEDS: &[Need] = &[
    Need { package: "build-essential", probe: Probe::Program("cc"), why: "C compiler and linker" },
    Need {
        package: "ca-certificates",
        probe: Probe::Program("update-ca-certificates"),
        why: "https sources",
    },
    Need { package: "pkg-config", probe: Probe::Program("pkg-config"), why: "finds OpenSSL" },
    Need { package: "libssl-dev", probe: Probe::PkgConfig("openssl"), why: "https and ssh sources" },
    Need { package: "fuse3", probe: Probe::Program("fusermount3"), why: "mounts without root" },
    Need { package: "git", probe: Probe::Program("git"), why: "the repositories that tests serve" },
    Need { package: "nginx", probe: Probe::Program("nginx"), why: "a real HTTP server for tests" },
    Need { package: "python3", probe: Probe::Program("python3"), why: "runs the tests' ComfyUI" },
    Need { package: "python3-venv", probe: Probe::Venv, why: "the environment of the tests' ComfyUI" },
    Need { package: "attr", probe: Probe::Program("setfattr"), why: "extended attributes in tests" },
    Need { package: "xfsprogs", probe: Probe::Program("mkfs.xfs"), why: "files that share blocks in tests" },
    Need { package: "rsync", probe: Probe::Program("rsync"), why: "copies in and out of mounts in tests" },
    Need { package: "zip", probe: Probe::Program("zip"), why: "packs on mounts in tests" },
    Need { package: "unzip", probe: Probe::Program("unzip"), why: "unpacks on mounts in tests" },
    Need { package: "acl", probe: Probe::Program("setfacl"), why: "access control lists in tests" },
];

/// What benchmarks and POSIX suites compare with.
const PEERS: &[Need] = &[Need {
    package: "fuse-overlayfs",
    probe: Probe::Program("fuse-overlayfs"),
    why: "a peer in benchmarks and POSIX suites",
}];

/// What downloads are compared with.
const DOWNLOADERS: &[Need] = &[
    Need { package: "aria2", probe: Probe::Program("aria2c"), why: "a peer in the download benchmark" },
    Need { package: "curl", probe: Probe::Program("curl"), why: "a peer in the download benchmark" },
];

/// What the POSIX suites take.
const SUITES: &[Need] = &[Need {
    package: "stress-ng",
    probe: Probe::Program("stress-ng"),
    why: "stresses mounts in POSIX suites",
}];

/// What the browser test takes. Ubuntu has it as a snap only, which no container runs: there, and wherever else the
/// distribution does not carry it, set-up goes on without, and the test says that it is skipped.
const BROWSER: Need = Need {
    package: "chromium",
    probe: Probe::OneOf(&["chromium", "google-chrome", "google-chrome-stable", "chrome"]),
    why: "loads ComfyUI's page in a test",
};

/// A program from crates.io.
struct Tool {
    name: &'static str,
    version: &'static str,
    /// What its program is behind; empty for most.
    features: &'static str,
}

const FSX: Tool = Tool { name: "fsx", version: "0.3.2", features: "" };
const B3SUM: Tool = Tool { name: "b3sum", version: "1.8.7", features: "" };
const PJDFSTEST: Tool = Tool { name: "pjdfstest", version: "0.2.2", features: "" };
/// A server that speaks as S3 does, over a directory.
const S3S_FS: Tool = Tool { name: "s3s-fs", version: "0.14.1", features: "binary" };

/// Builds and runs programs with libFuzzer.
const CARGO_FUZZ: Tool = Tool { name: "cargo-fuzz", version: "0.13.2", features: "" };

/// What a command is about to do, and therefore what must be there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Test,
    Bench,
    Posix,
    Fuzz,
    All,
}

impl Purpose {
    fn needs(self) -> impl Iterator<Item = &'static Need> {
        let compares = !matches!(self, Purpose::Test | Purpose::Fuzz);
        let peers: &[Need] = if compares { PEERS } else { &[] };
        let suites: &[Need] = if matches!(self, Purpose::Bench | Purpose::Fuzz) { &[] } else { SUITES };
        let benches = matches!(self, Purpose::Bench | Purpose::All);
        let downloaders: &[Need] = if benches { DOWNLOADERS } else { &[] };
        NEEDS.iter().chain(peers).chain(downloaders).chain(suites)
    }

    /// Whether ComfyUI is run, and so uv and the wheels are needed.
    fn runs_python(self) -> bool {
        !matches!(self, Purpose::Posix | Purpose::Fuzz)
    }

    fn has_browser(self) -> bool {
        matches!(self, Purpose::Test | Purpose::All)
    }

    fn tools(self) -> &'static [Tool] {
        match self {
            Purpose::Test => &[FSX, PJDFSTEST, S3S_FS],
            Purpose::Bench => &[B3SUM],
            Purpose::Posix => &[FSX, PJDFSTEST],
            Purpose::Fuzz => &[CARGO_FUZZ],
            Purpose::All => &[FSX, B3SUM, PJDFSTEST, S3S_FS, CARGO_FUZZ],
        }
    }
}

pub(crate) fn run(project: &Project, args: &[String]) -> Outcome {
    match args {
        [] => {
            ensure(project, Purpose::All)?;
            println!("Everything is there.");
            Ok(())
        }
        [flag] if flag == "--check" => check(project),
        _ => fail!(usage, "usage: cargo xtask setup [--check]"),
    }
}

/// Installs what is missing for `purpose`; says nothing when nothing is.
pub(crate) fn ensure(project: &Project, purpose: Purpose) -> Outcome {
    let mut missing: Vec<&Need> = purpose.needs().filter(|need| !is_met(project, need)).collect();
    if purpose.has_browser() && !is_met(project, &BROWSER) {
        if has_browser_package() {
            missing.push(&BROWSER);
        } else {
            eprintln!(
                "note: this distribution has no package '{}'; without it or Google Chrome, the browser test is \
                 skipped",
                BROWSER.package
            );
        }
    }
    if !missing.is_empty() {
        install_packages(project, &missing)?;
        for need in missing {
            if !is_met(project, need) {
                return Err(still_missing(need));
            }
        }
    }
    for tool in purpose.tools() {
        install_tool(project, tool)?;
    }
    if purpose.runs_python() {
        python::install_uv(project)?;
        python::download_wheels(project)?;
    }
    Ok(())
}

fn check(project: &Project) -> Outcome {
    let mut all = true;
    let mut say = |met: bool, name: &str, what: &str| {
        all &= met;
        println!("{:7}  {name:16} {what}", if met { "present" } else { "MISSING" });
    };
    for need in Purpose::All.needs().chain([&BROWSER]) {
        say(is_met(project, need), need.package, need.why);
    }
    for tool in Purpose::All.tools() {
        say(has_tool(project, tool), tool.name, "from crates.io");
    }
    say(python::has_uv(project), "uv", &format!("{} from the Python package index", python::UV));
    say(python::has_wheels(project), "test-wheels", "what tests install, from the Python package index");
    if all { Ok(()) } else { fail!("something is missing; `cargo xtask setup` installs it") }
}

fn is_met(project: &Project, need: &Need) -> bool {
    match need.probe {
        Probe::Program(name) => find_program(name).is_some(),
        Probe::OneOf(names) => names.iter().any(|name| find_program(name).is_some()),
        Probe::PkgConfig(module) => {
            shell::succeeds(shell::command(project, "pkg-config").args(["--exists", module]))
        }
        Probe::Venv => venv_works(&project.tools().join("venv-check")),
    }
}

/// Whether `python3 -m venv` makes an environment with pip in it. Debian splits that off into a package of its own,
/// and a `python3` in PATH may be a shim for an interpreter that is not there. The environment made stays as the proof.
fn venv_works(dir: &Path) -> bool {
    let pip_runs =
        || shell::succeeds(Command::new(dir.join("bin/python3")).args(["-I", "-m", "pip", "--version"]));
    pip_runs()
        || shell::succeeds(Command::new("python3").args(["-I", "-m", "venv", "--clear"]).arg(dir))
            && pip_runs()
}

/// Whether the distribution has Chromium as a package that a container can run.
fn has_browser_package() -> bool {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    // Those made from Ubuntu say so in ID_LIKE.
    let of_ubuntu = release.lines().any(|line| line.starts_with("ID") && line.contains("ubuntu"));
    find_program("apt-get").is_some() && !of_ubuntu
}

fn still_missing(need: &Need) -> Failure {
    let what = match need.probe {
        Probe::Program(name) => format!("there is still no `{name}` in PATH"),
        Probe::OneOf(names) => format!("PATH still has none of {}", names.join(", ")),
        Probe::PkgConfig(module) => format!("pkg-config still does not know '{module}'"),
        Probe::Venv => {
            let python = find_program("python3").map_or("python3".to_owned(), |p| p.display().to_string());
            format!(
                "`{python} -m venv` still does not work: it is not the python3 that apt-get installs; \
                 put /usr/bin before it in PATH"
            )
        }
    };
    Failure::new(format!("{} is installed, but {what}", need.package))
}

fn install_packages(project: &Project, missing: &[&Need]) -> Outcome {
    println!("Missing:");
    for need in missing {
        println!("  {:16} {}", need.package, need.why);
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let list = packages.join(" ");
    if find_program("apt-get").is_none() {
        fail!(
            "this machine has no apt-get; install what these Debian packages hold, then run this again: {list}"
        );
    }
    if !is_root() {
        // Debian starts what it installs; the tests run an nginx of their own.
        let stop = if packages.contains(&"nginx") { "; systemctl disable --now nginx" } else { "" };
        fail!(
            "installing needs root. Run this, then run this command again:\n\n  \
             sudo sh -c 'apt-get update && apt-get install -y --no-install-recommends {list}{stop}'\n"
        );
    }
    let _guard = NoServices::begin()?;
    shell::run(shell::command(project, "apt-get").args(["update", "-q"]))?;
    shell::run(
        shell::command(project, "apt-get")
            .args(["install", "-q", "-y", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"])
            .args(&packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )?;
    if packages.contains(&"nginx") && find_program("systemctl").is_some() {
        // Not started now, and not at the next boot: the tests run their own. Where systemd is not running, this
        // fails and there is nothing to disable.
        shell::succeeds(shell::command(project, "systemctl").args(["disable", "nginx"]));
    }
    Ok(())
}

/// While this lives, package scripts start no services: the machine's policy file (invoke-rc.d(8)) says no. A policy
/// that is already there is left as it is.
struct NoServices {
    made: bool,
}

impl NoServices {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn begin() -> Outcome<NoServices> {
        use std::os::unix::fs::PermissionsExt;
        if Path::new(Self::POLICY).exists() {
            return Ok(NoServices { made: false });
        }
        std::fs::write(Self::POLICY, "#!/bin/sh\nexit 101\n")
            .doing(|| format!("writing {}", Self::POLICY))?;
        let guard = NoServices { made: true };
        std::fs::set_permissions(Self::POLICY, std::fs::Permissions::from_mode(0o755))
            .doing(|| format!("making {} executable", Self::POLICY))?;
        Ok(guard)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made
            && let Err(e) = std::fs::remove_file(Self::POLICY)
        {
            eprintln!("warning: remove {} by hand, it keeps services from starting: {e}", Self::POLICY);
        }
    }
}

fn has_tool(project: &Project, tool: &Tool) -> bool {
    project.tools().join("bin").join(tool.name).is_file() || find_program(tool.name).is_some()
}

fn install_tool(project: &Project, tool: &Tool) -> Outcome {
    if has_tool(project, tool) {
        return Ok(());
    }
    println!("Building {} {} from crates.io", tool.name, tool.version);
    shell::run(
        shell::cargo(project)
            .args([
                "install",
                "--quiet",
                "--locked",
                "--version",
                tool.version,
                "--features",
                tool.features,
                "--root",
            ])
            .arg(project.tools())
            .arg(tool.name)
            // Its own build directory: artefacts of another crate's lock file are no use to the workspace's.
            .env("CARGO_TARGET_DIR", project.tools().join("build")),
    )
}
