//! The Python environment of a version: from the requirements of core and nodes to a manifest that is grafted at
//! `.venv`, and the bytecode that is grafted beside sources.
//!
//! The work is done by `uv`, an external program, which keeps everything it keeps under `HOME/uv`. [`resolve`] turns
//! requirements into exact packages (a PEP 751 document), [`build`] installs those and takes them into a transaction in a
//! normal form, so that one lock gives one manifest, [`bytecode`] compiles a source tree, and [`check`] tells whether an
//! environment is whole. Nothing here knows specs or workspaces. docs/python.md says what people may rely on.

mod build;
mod bytecode;
mod cache;
mod check;
mod classify;
mod conflict;
mod error;
mod event;
mod ingest;
mod interpreter;
mod lock;
mod marshal;
mod normal;
mod requirements;
mod resolve;
mod text;
mod uv;
mod workers;

pub use build::{BuildOptions, Environment, build};
pub use bytecode::{BytecodeReport, bytecode};
pub use cache::{CacheUsage, cache_usage, clear_cache};
pub use check::{EnvironmentProblem, check};
pub use error::{PythonError, Side};
pub use event::{PythonEvent, PythonOptions};
pub use interpreter::{Interpreter, find_interpreter};
pub use lock::{LockedPackage, packages};
#[doc(hidden)]
pub use requirements::gather;
pub(crate) use requirements::unfit;
pub use requirements::{Requirements, Role, requirements_of};
pub use resolve::{ResolveRequest, resolve};
pub use uv::{MINIMUM, Uv};
