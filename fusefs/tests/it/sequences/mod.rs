//! Random sequences of operations, on an overlay and on a plain directory that began as a copy of its view: they give
//! the same results and errors, and leave the same tree. The overlay is asked as it is ([`model`]), many times a
//! second, and through a mount ([`stage`]) by two processes, one of them an ordinary user now and then.

mod agent;
mod allowed;
mod dir;
mod listing;
mod model;
mod ops;
mod outcome;
mod race;
mod regressions;
mod stage;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use cvs_fusefs::Overlay;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRng, TestRunner};

use self::agent::{Agent, NOBODY};
use self::model::{Model, as_user};
use self::ops::{Op, Scope, Step, Who, steps};
use self::outcome::{Outcome, Seen};
use self::stage::Stage;
use crate::support::{Shown, World, difference, me, show};
use crate::trees::{Lower, TREES, copy_out, show_plain};

/// Where results of the plain directory and of the overlay are asked for.
const PLAIN: usize = 0;
const OURS: usize = 1;

/// Cases of a run: as many as fit into some seconds, or into an hour.
fn cases(short: u32) -> u32 {
    match std::env::var("CVS_TEST_LONG").ok() {
        None => short,
        Some(factor) => short * factor.parse::<u32>().ok().filter(|factor| *factor > 1).unwrap_or(200),
    }
}

/// How often each operation was done, refused, or had nothing to be done with.
#[derive(Default)]
struct Tally(BTreeMap<String, [u32; 3]>);

impl Tally {
    fn count(&mut self, op: &Op, outcome: &Outcome) {
        let mut name = format!("{op:?}");
        name.truncate(name.find('(').unwrap_or(name.len()));
        let column = match outcome {
            Ok(Seen::Idle) => 2,
            Ok(_) => 0,
            Err(_) => 1,
        };
        self.0.entry(name).or_default()[column] += 1;
    }

    /// Sequences of refusals would show nothing.
    fn check(&self) {
        let never = |counts: &[u32; 3]| counts[0] == 0 && counts.iter().sum::<u32>() > 200;
        let never: Vec<_> = self.0.iter().filter(|(_, counts)| never(counts)).collect();
        assert!(never.is_empty(), "never done: {never:?}");
    }
}

/// Runs `check` on sequences that are drawn, and says the shortest that fails as code.
fn draw(scope: Scope, short: u32, mut check: impl FnMut(u8, &[Step]) -> Result<(), String>) {
    let config = Config {
        cases: cases(short),
        failure_persistence: None,
        max_shrink_iters: 3000,
        ..Config::default()
    };
    // The runner wants a function that it can call again and again, and a case changes what it runs on.
    let check = std::cell::RefCell::new(&mut check);
    // The same ones each time, so that a change is judged by what it changes; the long run looks for new ones.
    let mut runner = match std::env::var_os("CVS_TEST_LONG") {
        None => {
            let known = TestRng::from_seed(config.rng_algorithm, &[7; 32]);
            TestRunner::new_with_rng(config, known)
        }
        Some(_) => TestRunner::new(config),
    };
    let drawn = runner.run(&(0..TREES, steps(scope)), |(seed, steps)| {
        (check.borrow_mut())(seed, &steps).map_err(TestCaseError::fail)
    });
    match drawn {
        Ok(()) => {}
        Err(TestError::Abort(reason)) => panic!("{reason}"),
        Err(TestError::Fail(reason, (seed, steps))) => {
            let steps: String = steps.iter().map(|step| format!("    {step:?},\n")).collect();
            panic!("{reason}\non tree {seed}:\n{steps}");
        }
    }
}

/// Now, less what the clock of files may lag by: times before this were set.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 - 1
}

/// A plain directory with what the view of a tree shows.
fn plain_copy(world: &World, lower: &Lower) -> PathBuf {
    let root = world.beside("plain");
    let _ = std::fs::remove_dir_all(&root);
    std::fs::create_dir(&root).unwrap();
    let view = lower.view(world);
    let read_only = Overlay::new(world.store.clone(), lower.view(world), None, false).unwrap();
    copy_out(&read_only, &view, &root);
    root
}

fn compare(expected: &Shown, found: &Shown, when: &str) -> Result<(), String> {
    if expected == found {
        return Ok(());
    }
    Err(format!("{when}:\n{}", difference(expected, found).join("\n")))
}

fn compare_outcomes(number: usize, step: &Step, expected: &Outcome, found: &Outcome) -> Result<(), String> {
    if allowed::agree(&step.op, expected, found) {
        return Ok(());
    }
    Err(format!("step {number}, {step:?}:\n  {found:?}, not\n  {expected:?}"))
}

/// One case through a mount.
fn check_mounted(stage: &mut Stage, seed: u8, steps: &[Step]) -> Result<(), String> {
    if !std::mem::replace(&mut stage.clean, false) {
        stage.give_up();
    }
    let _watch = stage.watch();
    run_mounted(stage, seed, steps)?;
    stage.clean = true;
    Ok(())
}

/// Asks both sides for one operation; true when it was done.
fn ask_both(stage: &mut Stage, number: usize, step: &Step) -> Result<bool, String> {
    let (agent, nobody) = match step.who {
        Who::Here => (0, false),
        Who::Other => (1, false),
        Who::Nobody => (1, true),
    };
    let expected = stage.agents[agent].run(PLAIN, nobody, &step.op);
    let found = stage.agents[agent].run(OURS, nobody, &step.op);
    stage.tally.count(&step.op, &expected);
    compare_outcomes(number, step, &expected, &found)?;
    Ok(expected.is_ok())
}

fn run_mounted(stage: &mut Stage, seed: u8, steps: &[Step]) -> Result<(), String> {
    let plain = plain_copy(&stage.world, &stage.lowers[usize::from(seed)]);
    let started = now();
    let mounted = stage.take(seed);
    let begin = |stage: &mut Stage, roots: &[&Path]| {
        let roots: Vec<PathBuf> = roots.iter().map(|root| root.to_path_buf()).collect();
        stage.agents.iter_mut().for_each(|agent| agent.begin(&roots, started));
    };
    compare(&show_plain(&plain, started), &show_plain(&mounted, started), "at the start")?;
    begin(stage, &[&plain, &mounted]);
    let mut allocated = false;
    for (number, step) in steps.iter().enumerate() {
        if allowed::is_passed_over(&step.op, &mut allocated) {
            continue;
        }
        if allowed::settles_mappings(&step.op) {
            stage.agents.iter_mut().for_each(Agent::write_back);
        }
        if let Op::Remount = step.op {
            stage.remount();
            begin(stage, &[&plain, &mounted]);
            continue;
        }
        let opened = ask_both(stage, number, step)?;
        if let (true, Some(slot)) = (opened, allowed::is_let_go(&step.op, stage.models)) {
            for op in [Op::Fstat(slot), Op::Pread(slot, 0, u16::MAX), Op::Close(slot)] {
                ask_both(stage, number, &Step { who: step.who, op })?;
            }
        }
    }
    stage.agents.iter_mut().for_each(Agent::write_back);
    let expected = show_plain(&plain, started);
    compare(&expected, &show_plain(&mounted, started), "before the last remount")?;
    stage.remount();

    compare(&expected, &show_plain(&mounted, started), "after the last remount")
}

/// What overlays without a mount run on.
struct Bench {
    world: World,
    lowers: Vec<Lower>,
    agents: [Agent; 2],
    clean: bool,
    tally: Tally,
}

impl Bench {
    fn new() -> Self {
        let world = World::new();
        let lowers = (0..TREES).map(|seed| Lower::make(&world, seed)).collect();
        Self {
            world,
            lowers,
            agents: [Agent::start(0), Agent::start(0o027)],
            clean: true,
            tally: Tally::default(),
        }
    }

    fn check(&mut self, user: Option<u32>, seed: u8, steps: &[Step]) -> Result<(), String> {
        if !std::mem::replace(&mut self.clean, false) {
            self.agents = [Agent::start(0), Agent::start(0o027)];
        }
        self.run(user, seed, steps)?;
        self.clean = true;
        Ok(())
    }

    /// One case on an overlay that `user` serves.
    fn run(&mut self, user: Option<u32>, seed: u8, steps: &[Step]) -> Result<(), String> {
        let lower = &self.lowers[usize::from(seed)];
        let plain = plain_copy(&self.world, lower);
        let upper = self.world.beside("upper");
        let _ = std::fs::remove_dir_all(&upper);
        std::fs::create_dir(&upper).unwrap();
        std::os::unix::fs::chown(&upper, user, None).unwrap();
        let started = now();
        let open = || as_user(user, || self.world.overlay(lower.view(&self.world), "upper"));
        let shown = |model: &Model| {
            let mut shown = as_user(user, || show(&model.overlay, started));
            if user.is_some() {
                // The tree is that user's, and the plain directory root's.
                shown.values_mut().for_each(|entry| entry.owner = (0, 0));
            }
            shown
        };
        let mut model = Model::new(open(), user, started);
        self.agents.iter_mut().for_each(|agent| agent.begin(std::slice::from_ref(&plain), started));
        compare(&show_plain(&plain, started), &shown(&model), "at the start")?;
        for (number, step) in steps.iter().enumerate() {
            if let Op::Remount = step.op {
                drop(model);
                model = Model::new(open(), user, started);
                self.agents.iter_mut().for_each(|agent| agent.begin(std::slice::from_ref(&plain), started));
                continue;
            }
            let Some(mut found) = model.run(step.who, &step.op) else { continue };
            if let (Ok(Seen::Attributes(attributes)), Some(_)) = (&mut found, user) {
                (attributes.uid, attributes.gid) = (0, 0);
            }
            let agent = usize::from(step.who != Who::Here);
            let expected = self.agents[agent].run(PLAIN, false, &step.op);
            self.tally.count(&step.op, &expected);
            compare_outcomes(number, step, &expected, &found)?;
        }
        let expected = show_plain(&plain, started);
        compare(&expected, &shown(&model), "before the last remount")?;
        drop(model);
        let model = Model::new(open(), user, started);
        compare(&expected, &shown(&model), "after the last remount")
    }
}

#[test]
fn an_overlay_is_a_directory() {
    if me().uid != 0 {
        return eprintln!("skipped: the modes of files hold nobody but root back");
    }
    let mut bench = Bench::new();
    draw(Scope { kernel: false, root: true }, 150, |seed, steps| bench.check(None, seed, steps));
    bench.tally.check();
}

#[test]
fn so_is_the_overlay_of_an_ordinary_user() {
    if me().uid != 0 {
        return eprintln!("skipped: only root can look at both");
    }
    let mut bench = Bench::new();
    draw(Scope { kernel: false, root: false }, 150, |seed, steps| bench.check(Some(NOBODY), seed, steps));
    bench.tally.check();
}

/// Cases through a mount, in its tree or below its models.
fn draw_mounted(models: bool, short: u32) {
    if me().uid != 0 {
        return eprintln!("skipped: needs another user's process, which root alone can be");
    }
    let Some(mut stage) = Stage::new(models) else { return };
    let scope = Scope { kernel: true, root: true };
    draw(scope, short, |seed, steps| check_mounted(&mut stage, seed, steps));
    stage.tally.check();
}

#[test]
fn a_mount_is_a_directory() {
    draw_mounted(false, 200);
}

#[test]
fn so_is_the_models_connection() {
    draw_mounted(true, 100);
}
