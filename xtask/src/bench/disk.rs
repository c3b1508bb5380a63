//! The space that ten versions take which differ in one node each, against the space of one.
//!
//! The repositories are of the size of real ones: a core of 600 files, five nodes of 80, and one node with ten commits,
//! each of which changes four of its files; a model makes up the bulk, and is shown apart, because it hides the rest.

use std::fs;
use std::path::{Path, PathBuf};

use super::data::Random;
use super::measure::disk_usage;
use crate::failure::{Doing, Outcome};
use crate::lab::Lab;
use crate::shell;
use crate::table::{Table, aim, bytes};

const VERSIONS: usize = 10;

pub(super) fn run(lab: &Lab) -> Outcome {
    let repos = lab.work("repos")?;
    let core = repository(lab, &repos, "core", 600, 1)?;
    let nodes =
        (1..=5).map(|n| repository(lab, &repos, &format!("node{n}"), 80, 1)).collect::<Outcome<Vec<_>>>()?;
    let changing = repository(lab, &repos, "changing", 80, VERSIONS)?;
    let model = super::data::model(lab, lab.size(512 << 20, 16 << 20))?.join(super::data::MODEL);

    let mut table = Table::new(&["versions", "store", "of one", "without models", "of one", "as checkouts"]);
    let mut first = None;
    let mut last = 0.0;
    let model_size = fs::metadata(&model).doing(|| format!("looking at {}", model.display()))?.len();
    let checkouts =
        [&core, &changing].into_iter().chain(&nodes).map(|repo| disk_usage(repo)).sum::<Outcome<u64>>()?;
    for number in 1..=VERSIONS {
        let mut create = lab.cvs();
        create.arg("create").arg(format!("v{number}")).arg("--repo").arg(url(&core));
        for node in &nodes {
            create.arg("--node").arg(url(node));
        }
        create.arg("--node").arg(format!("{}@step{number}", url(&changing)));
        create.arg("--model").arg(format!("{}=models/checkpoints/model.safetensors", model.display()));
        shell::quiet(&mut create)?;
        if number != 1 && number != VERSIONS {
            continue;
        }
        let store = disk_usage(&lab.home())?;
        let small = store.saturating_sub(model_size);
        let (one, one_small) = *first.get_or_insert((store, small));
        last = share(store, one);
        table.row(vec![
            number.to_string(),
            bytes(store),
            format!("{last:.3}"),
            bytes(small),
            format!("{:.3}", share(small, one_small)),
            bytes((checkouts + model_size) * number as u64),
        ]);
    }
    table.print();
    aim("ten versions take at most 1.02 of one", last <= 1.02);
    Ok(())
}

fn share(part: u64, of: u64) -> f64 {
    part as f64 / of.max(1) as f64
}

fn url(repo: &Path) -> String {
    format!("file://{}", repo.display())
}

/// A git repository of `files` files whose commits are tagged `step1`, `step2` and so on; each after the first changes
/// four files.
fn repository(lab: &Lab, parent: &Path, name: &str, files: u64, steps: usize) -> Outcome<PathBuf> {
    let dir = parent.join(name);
    lab.empty(&dir)?;
    let mut random = Random::new(name.bytes().fold(files, |hash, b| hash.wrapping_mul(31) + u64::from(b)));
    let git = |args: &[&str]| {
        let mut cmd = lab.command("git");
        cmd.arg("-C")
            .arg(&dir)
            .args(["-c", "user.name=bench", "-c", "user.email=bench@example.invalid"])
            .args(args);
        // Nothing of the person's own configuration: signing, hooks, line ends.
        shell::quiet(cmd.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1"))
    };
    git(&["init", "--quiet", "--initial-branch=main"])?;
    for step in 1..=steps {
        let changed: Vec<u64> = if step == 1 {
            (0..files).collect()
        } else {
            (0..4).map(|n| (step as u64 * 7 + n * 19) % files).collect()
        };
        for number in changed {
            let file = dir.join(format!("part{}/file{number}.py", number % 12));
            let size = 2_000 + (number * 977 % 30_000) as usize;
            fs::create_dir_all(file.parent().unwrap_or(&dir))
                .and_then(|()| fs::write(&file, random.bytes(size)))
                .doing(|| format!("writing {}", file.display()))?;
        }
        git(&["add", "--all"])?;
        git(&["commit", "--quiet", "--message", &format!("step {step}")])?;
        git(&["tag", &format!("step{step}")])?;
    }
    Ok(dir)
}
