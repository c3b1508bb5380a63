//! The arguments that one commit of ComfyUI knows, asked of its own `main.py --help`: an unknown one ends it at once.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{RunError, ending};
use super::launch::environment;
use super::process::{Kill, Process};

/// `--help` imports little, but the disk may be cold and far away.
const PATIENCE: Duration = Duration::from_secs(120);
/// How alike two arguments are, at least, when one is named in place of the other.
const ALIKE: f64 = 0.85;

/// The long arguments of a ComfyUI, such as `--listen`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flags(BTreeSet<String>);

impl Flags {
    /// Asks `main.py` below `root`, with the environment of a launch.
    pub fn probe(python: &Path, root: &Path, env: &[(String, String)]) -> Result<Flags, RunError> {
        let mut command = Command::new(python);
        command.args(["main.py", "--help"]).current_dir(root);
        environment(&mut command, python, root, env);
        // A terminal's width or colours have no say in what is read here.
        command.env("COLUMNS", "200").env("NO_COLOR", "1").env_remove("FORCE_COLOR");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (process, pipes) = Process::spawn(command, python)?;
        let texts = [Mutex::new(String::new()), Mutex::new(String::new())];
        let status = std::thread::scope(|scope| {
            let (out, err) = (pipes.stdout, pipes.stderr);
            scope.spawn(|| *lock(&texts[0]) = read(out));
            scope.spawn(|| *lock(&texts[1]) = read(err));
            let status = process.wait_for(PATIENCE);
            // The readers end with the last holder of the pipes.
            if status.is_none() {
                process.end(Duration::ZERO, Kill::Now)?;
            }
            Ok::<_, RunError>(status)
        })?;
        let [out, err] = texts.map(|text| text.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let flags = Flags::of_help(&out);
        match status {
            Some(status) if status.success() && !flags.0.is_empty() => Ok(flags),
            status => {
                let said = if err.trim().is_empty() { out } else { err };
                let tail = said.lines().map(str::to_owned).collect::<Vec<_>>();
                let tail = tail[tail.len().saturating_sub(super::log::TAIL)..].to_vec();
                let status = status.map_or("no end after 120 seconds".to_owned(), ending);
                Err(RunError::Help { status, tail })
            }
        }
    }

    /// Reads what argparse prints. An argument's line is indented by two; its description, which may name others, by more.
    fn of_help(text: &str) -> Flags {
        let mut flags = BTreeSet::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("  ").filter(|rest| rest.starts_with('-')) else { continue };
            let head = rest.split("  ").next().unwrap_or(rest);
            let names = head.split(", ").filter_map(|part| part.split([' ', '=']).next());
            flags.extend(names.filter(|name| name.len() > 2 && name.starts_with("--")).map(str::to_owned));
        }
        Flags(flags)
    }

    /// Whether this ComfyUI has that argument.
    pub fn knows(&self, flag: &str) -> bool {
        self.0.contains(flag)
    }

    /// All arguments, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Checks the arguments of a person: names are known, or short for exactly one that is, as argparse takes them.
    pub(super) fn check(&self, args: &[String]) -> Result<(), RunError> {
        for arg in args.iter().take_while(|arg| *arg != "--").filter(|arg| arg.starts_with("--")) {
            let name = arg.split('=').next().unwrap_or(arg);
            let meant = self.meant_by(name);
            if let Some(reason) = meant.and_then(reserved) {
                return Err(RunError::ReservedFlag { flag: name.to_owned(), reason });
            }
            if meant.is_none() {
                return Err(RunError::UnknownFlag { flag: name.to_owned(), near: self.near(name) });
            }
        }
        Ok(())
    }

    fn meant_by(&self, name: &str) -> Option<&str> {
        if let Some(known) = self.0.get(name) {
            return Some(known);
        }
        let mut longer = self.iter().filter(|known| known.starts_with(name));
        match (longer.next(), longer.next()) {
            (Some(known), None) => Some(known),
            _ => None,
        }
    }

    fn near(&self, name: &str) -> Vec<String> {
        let bare = name.trim_start_matches('-');
        let mut near: Vec<(f64, &str)> = self
            .iter()
            .map(|known| (strsim::jaro_winkler(bare, known.trim_start_matches('-')), known))
            .filter(|(alike, known)| *alike >= ALIKE || known.starts_with(name))
            .collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        near.into_iter().take(3).map(|(_, known)| known.to_owned()).collect()
    }
}

impl FromIterator<String> for Flags {
    fn from_iter<I: IntoIterator<Item = String>>(flags: I) -> Self {
        Flags(flags.into_iter().collect())
    }
}

/// What a person may not pass on, because the launch would then wait for a server that is elsewhere.
fn reserved(flag: &str) -> Option<&'static str> {
    match flag {
        "--port" | "--listen" => Some("cvs sets it; use its own --host and --port"),
        "--tls-keyfile" | "--tls-certfile" => {
            Some("cvs speaks plain HTTP to ComfyUI; put a proxy in front of it")
        }
        "--help" | "--quick-test-for-ci" => Some("ComfyUI would end at once"),
        _ => None,
    }
}

fn read(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What came before an error is as good as can be had.
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "\
usage: main.py [-h] [--listen [IP]] [--port PORT] [--cuda-malloc | --disable-cuda-malloc]

options:
  -h, --help            show this help message and exit
  --listen [IP]         Specify the IP address to listen on
  --port PORT           Set the listen port.
  --input-directory INPUT_DIRECTORY
                        Set the ComfyUI input directory. Overrides
                        --base-directory.
  --disable-auto-launch  Disable auto launching the browser.
  --cuda-device DEVICE_ID
  --cuda-malloc         Enable cudaMallocAsync.
  --disable-cuda-malloc
  -v, --verbose [{DEBUG,INFO}]
                        Set the logging level
";

    #[test]
    fn arguments_are_read_and_descriptions_are_not() {
        let flags = Flags::of_help(HELP);
        assert_eq!(
            flags.iter().collect::<Vec<_>>(),
            [
                "--cuda-device",
                "--cuda-malloc",
                "--disable-auto-launch",
                "--disable-cuda-malloc",
                "--help",
                "--input-directory",
                "--listen",
                "--port",
                "--verbose",
            ]
        );
        assert!(!flags.knows("--base-directory"));
        let json = serde_json::to_string(&flags).unwrap();
        assert_eq!(serde_json::from_str::<Flags>(&json).unwrap(), flags);
    }

    #[test]
    fn arguments_of_a_person_are_checked() {
        let flags = Flags::of_help(HELP);
        for (args, refused) in [
            (&["--cuda-malloc", "--verbose=DEBUG", "value", "--disable-cuda"][..], None),
            (&["--cuda-malloc", "--", "--anything"], None),
            (
                &["--cuda-maloc"],
                Some("this ComfyUI does not know the argument --cuda-maloc; it knows --cuda-malloc"),
            ),
            (
                &["--cuda"],
                Some("this ComfyUI does not know the argument --cuda; it knows --cuda-device, --cuda-malloc"),
            ),
            (&["--zzz=1"], Some("this ComfyUI does not know the argument --zzz")),
            (
                &["--port=1"],
                Some("the argument --port cannot be passed on: cvs sets it; use its own --host and --port"),
            ),
        ] {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            let said = flags.check(&args).err().map(|error| error.to_string());
            assert_eq!(said.as_deref(), refused, "{args:?}");
        }
    }
}
