//! What the benchmarks of running stand on: a package index on loopback, repositories, and the same version twice, once
//! made by cvs and once by hand, with git and uv.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::bench::data;
use crate::failure::{Doing, Outcome, fail};
use crate::lab::Lab;
use crate::shell;

/// What the node `heavy` imports: nothing that needs a device, and about 2,500 modules in all.
pub(in crate::bench) const IMPORTS: &str =
    "import sympy, scipy.stats, scipy.optimize, networkx, sklearn.ensemble, pandas, matplotlib.pyplot";

/// Where packages and repositories come from.
pub(in crate::bench) struct World {
    index: Index,
    core: PathBuf,
    heavy: PathBuf,
    more: PathBuf,
}

impl World {
    pub(in crate::bench) fn make(lab: &Lab) -> Outcome<World> {
        let files = data::keep_made(lab, "run-index", |dir| fill_index(lab, dir))?;
        let repos = lab.work("repos")?;
        let template = lab.root().join("tests/comfyui/core");
        let core = repos.join("ComfyUI");
        shell::quiet(
            &mut lab.sh(r#"cp -a "$1" "$2" && mv "$2/gitignore" "$2/.gitignore""#, &[&template, &core]),
        )?;
        commit(lab, &core)?;
        let heavy = repos.join("heavy");
        write(&heavy.join("__init__.py"), &format!("{IMPORTS}\n\nNODE_CLASS_MAPPINGS = {{}}\n"))?;
        write(&heavy.join("requirements.txt"), "sympy\nscipy\nnetworkx\nscikit-learn\npandas\nmatplotlib\n")?;
        commit(lab, &heavy)?;
        let more = repos.join("more");
        write(&more.join("__init__.py"), "import sortedcontainers\n\nNODE_CLASS_MAPPINGS = {}\n")?;
        write(&more.join("requirements.txt"), "sortedcontainers\n")?;
        commit(lab, &more)?;
        Ok(World { index: Index::serve(lab, &files)?, core, heavy, more })
    }

    /// `cvs create ID`, with the environment unless told otherwise, and with one node more if asked.
    pub(in crate::bench) fn create(&self, lab: &Lab, id: &str, python: bool, more: bool) -> Command {
        let mut create = if python { lab.cvs_with_python() } else { lab.cvs() };
        create.args(["create", id, "--repo"]).arg(url(&self.core)).arg("--node").arg(url(&self.heavy));
        if more {
            create.arg("--node").arg(url(&self.more));
        }
        create.arg("--index-url").arg(self.index.url());
        create
    }

    /// The same by hand: clones.
    pub(in crate::bench) fn clone_by_hand(&self, lab: &Lab, dir: &Path) -> Outcome {
        let node = dir.join("custom_nodes/heavy");
        for (repo, to) in [(&self.core, dir), (&self.heavy, node.as_path())] {
            shell::quiet(lab.command("git").args(["clone", "--quiet"]).arg(url(repo)).arg(to))?;
        }
        Ok(())
    }

    /// The same by hand: exact versions with hashes, into a file; with the node `more` if asked.
    pub(in crate::bench) fn resolve_by_hand(&self, lab: &Lab, lock: &Path, more: bool) -> Outcome {
        let mut compile = self.uv(lab, &["pip", "compile", "--quiet", "--generate-hashes"]);
        let nodes = [&self.core, &self.heavy, &self.more];
        for repo in &nodes[..if more { 3 } else { 2 }] {
            compile.arg(repo.join("requirements.txt"));
        }
        // As cvs does, so that pip works in the environment.
        let pip = lock.with_extension("in");
        write(&pip, "pip\n")?;
        shell::quiet(compile.arg(pip).arg("--output-file").arg(lock))
    }

    /// The same by hand: an environment of what `lock` lists.
    pub(in crate::bench) fn install_by_hand(
        &self,
        lab: &Lab,
        lock: &Path,
        dir: &Path,
        compile: bool,
    ) -> Outcome {
        shell::quiet(self.uv(lab, &["venv", "--quiet", "--clear"]).arg(dir))?;
        let mut sync = self.uv(lab, &["pip", "sync", "--quiet", "--python"]);
        sync.arg(dir.join("bin/python")).arg(lock);
        if compile {
            sync.arg("--compile-bytecode");
        }
        shell::quiet(&mut sync)
    }

    fn uv(&self, lab: &Lab, args: &[&str]) -> Command {
        let mut uv = lab.command(lab.tool("uv"));
        uv.args(args);
        uv.env("UV_NO_CONFIG", "1").env("UV_CACHE_DIR", lab.dir().join("work/uv-cache"));
        uv.env("UV_DEFAULT_INDEX", self.index.url());
        uv
    }
}

fn url(repo: &Path) -> String {
    format!("file://{}", repo.display())
}

fn write(path: &Path, text: &str) -> Outcome {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(path, text))
        .doing(|| format!("writing {}", path.display()))
}

/// Makes a directory a repository of one commit.
pub(in crate::bench) fn commit(lab: &Lab, dir: &Path) -> Outcome {
    for args in [
        &["init", "--quiet", "--initial-branch=main"][..],
        &["add", "--all", "--force"],
        &[
            "-c",
            "user.name=bench",
            "-c",
            "user.email=bench@example.invalid",
            "commit",
            "--quiet",
            "-m",
            "One",
        ],
    ] {
        let mut git = lab.command("git");
        git.arg("-C").arg(dir).args(args);
        // Nothing of the person's own configuration: signing, hooks, line ends.
        shell::quiet(git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1"))?;
    }
    Ok(())
}

/// Downloads the wheels, once for all runs, and makes the pages of an index.
fn fill_index(lab: &Lab, dir: &Path) -> Outcome {
    println!("(wheels of about 150 MB are downloaded, once)\n");
    let files = dir.join("files");
    let python = lab.tools().join("../uv/bin/python");
    let mut download = lab.command(&python);
    download.args([
        "-I",
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
    ]);
    download.arg(&files);
    for list in ["tests/wheels/requirements.txt", "xtask/src/bench/run/wheels.txt"] {
        download.arg("--requirement").arg(lab.root().join(list));
    }
    shell::quiet(&mut download)?;
    let describe = lab.root().join("tests/wheels/describe.py");
    shell::quiet(lab.command(&python).arg("-I").arg(describe).arg(&files))?;
    let pages = lab.root().join("xtask/src/bench/run/index.py");
    shell::quiet(lab.command(&python).arg("-I").arg(pages).arg(dir))
}

/// A static web server on loopback; stopped when dropped.
struct Index {
    child: Child,
    port: u16,
}

impl Index {
    fn serve(lab: &Lab, dir: &Path) -> Outcome<Index> {
        let mut server = lab.command("python3");
        server
            .args(["-I", "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory"])
            .arg(dir)
            .arg("0");
        let mut child = server
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .doing(|| "starting a web server".to_owned())?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).doing(|| "reading from a web server".to_owned())?;
        }
        // Serving HTTP on 127.0.0.1 port 36487 (http://127.0.0.1:36487/) ...
        let port = line.split_once(" port ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        let index = Index { child, port: port.unwrap_or(0) };
        if index.port == 0 {
            fail!("the web server said '{}'", line.trim());
        }
        Ok(index)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/simple", self.port)
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
