//! The demonstration behind `cargo xtask demo`: what a person does with cvs, from an address to a picture and back to
//! an empty store, every command printed with what it said, and every claim checked.
//!
//! It stands on the end-to-end tests' servers and environment, so that it leaves nothing behind either. Ctrl-C reaches
//! the running command, whose failure ends the demonstration like any other. Exit codes: 0 all shown and checked,
//! 1 a step or a check failed, 2 usage.

mod stage;
mod story;

use std::process::ExitCode;

use signal_hook::consts::{SIGINT, SIGTERM};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let repo = match args.as_slice() {
        [] => None,
        [flag, repo] if flag == "--repo" => Some(repo.clone()),
        _ => {
            eprintln!("usage: demo [--repo URL[@REF]]");
            return ExitCode::from(2);
        }
    };
    survive_interrupts();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
        eprintln!("\nfailed: {}{place}", panic.payload_as_str().unwrap_or("a panic without words"));
    }));
    match std::panic::catch_unwind(|| story::tell(repo)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// SIGINT and SIGTERM do not end this process, so that it lives to unmount. The programs that it starts get SIGINT from
/// the terminal too and end by it; for those that do not, the next command of the show sees that it was interrupted.
fn survive_interrupts() {
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stage::interrupted()).expect("handling a signal");
    }
}
