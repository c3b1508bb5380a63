//! Tests of the store as its callers see it. Each has its own home in a temporary directory.

mod children;
mod fsck;
mod full;
mod gc;
mod support;
mod tree;
mod txn;
mod view;
