//! The transactions of one operation: one that keeps and assembles, and one for each thread that fetches repositories.
//! Repositories are fetched into the scratch directory of their transaction, by address; with one for each thread, two
//! parts of one repository, or with a common submodule, never meet there.

use std::path::PathBuf;

use cvs_store::{CommitStats, Store, StoreError, Transaction};

/// Threads that ask for and fetch repositories.
pub(super) const WORKERS: usize = 4;

/// Transactions that are committed and end together.
pub(super) struct Batch {
    main: Transaction,
    workers: Vec<Transaction>,
}

impl Batch {
    pub(super) fn begin(store: &Store, label: &str) -> Result<Self, StoreError> {
        let workers = (0..WORKERS).map(|_| store.begin(label)).collect::<Result<_, _>>()?;
        Ok(Self { main: store.begin(label)?, workers })
    }

    /// What keeps objects that are there, takes in models, and assembles.
    pub(super) fn main(&self) -> &Transaction {
        &self.main
    }

    /// That of a thread which [`super::jobs::run`] numbered.
    pub(super) fn worker(&self, number: usize) -> &Transaction {
        self.workers.get(number).unwrap_or(&self.main)
    }

    pub(super) fn scratch(&self, number: usize) -> Result<PathBuf, StoreError> {
        self.worker(number).scratch_dir()
    }

    /// Makes everything durable and visible. All of it stays claimed until the batch is dropped.
    pub(super) fn commit(&self) -> Result<CommitStats, StoreError> {
        let mut sum = CommitStats::default();
        for transaction in self.workers.iter().chain([&self.main]) {
            let stats = transaction.commit()?;
            sum.new_objects += stats.new_objects;
            sum.new_bytes += stats.new_bytes;
            sum.reused_objects += stats.reused_objects;
        }
        Ok(sum)
    }
}
