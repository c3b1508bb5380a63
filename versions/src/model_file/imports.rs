//! What pickles import, and what is known of it.

use std::collections::BTreeSet;

use super::{Finding, ModelInfo};

/// What stands for a name that is computed.
const COMPUTED: &str = "a name that it computes";
/// Names that are listed. Of more, those that are known to run code are.
const LISTED: usize = 512;
/// Letters of one name that are kept.
const NAME_MAX: usize = 256;

/// The imports of the pickles of one file.
#[derive(Debug, Default)]
pub(super) struct Imports {
    names: BTreeSet<String>,
    /// There were more names than are listed.
    more: bool,
}

impl Imports {
    pub(super) fn add(&mut self, module: &str, name: &str) {
        self.put(format!("{module}.{name}"));
    }

    pub(super) fn extension(&mut self, code: u64) {
        self.put(format!("the extension {code}"));
    }

    pub(super) fn computed(&mut self) {
        self.put(COMPUTED.to_owned());
    }

    fn put(&mut self, mut name: String) {
        if let Some((end, _)) = name.char_indices().nth(NAME_MAX) {
            name.truncate(end);
            name.push('\u{2026}');
        }
        let room = match self.names.len() {
            ..LISTED => true,
            count => count < 2 * LISTED && matches!(danger(&name), Danger::Code),
        };
        if room {
            self.names.insert(name);
        } else if !self.names.contains(&name) {
            self.more = true;
        }
    }

    /// Takes in what another pickle imports.
    pub(super) fn append(&mut self, other: Imports) {
        self.more |= other.more;
        other.names.into_iter().for_each(|name| self.put(name));
    }

    /// Takes in those of `other` that could be names, when it is not sure that those bytes are a pickle at all.
    pub(super) fn append_plausible(&mut self, other: Imports) {
        let letter = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
        let names = other.names.into_iter().filter(|name| name.chars().all(letter));
        names.for_each(|name| self.put(name));
    }

    pub(super) fn tell(self, info: &mut ModelInfo) {
        for import in &self.names {
            let import = import.clone();
            match danger(&import) {
                Danger::None => {}
                Danger::Code => info.findings.push(Finding::RunsCode { import }),
                Danger::Unknown => info.findings.push(Finding::UnknownImport { import }),
            }
        }
        if self.more {
            let reason = format!("it imports more names than the {} that are listed", self.names.len());
            info.findings.push(Finding::NotLookedInto { reason });
        }
        info.imports = self.names.into_iter().collect();
    }
}

enum Danger {
    None,
    Code,
    Unknown,
}

/// Modules whose functions run programs or code, or reach out of the process.
const CODE: &[&str] = &[
    "os",
    "posix",
    "nt",
    "subprocess",
    "sys",
    "runpy",
    "code",
    "codeop",
    "pty",
    "pdb",
    "bdb",
    "timeit",
    "shutil",
    "socket",
    "ssl",
    "http",
    "urllib",
    "requests",
    "httpx",
    "aiohttp",
    "webbrowser",
    "ftplib",
    "smtplib",
    "asyncio",
    "multiprocessing",
    "threading",
    "ctypes",
    "cffi",
    "importlib",
    "imp",
    "pkgutil",
    "pip",
    "setuptools",
    "pickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "marshal",
    "shelve",
    "operator",
    "_operator",
    "functools",
    "types",
    "inspect",
    "platform",
    "tempfile",
    "pathlib",
    "io",
    "_io",
    "builtins.eval",
    "builtins.exec",
    "builtins.compile",
    "builtins.open",
    "builtins.getattr",
    "builtins.setattr",
    "builtins.__import__",
    "builtins.globals",
    "builtins.locals",
    "builtins.vars",
    "builtins.breakpoint",
    "builtins.input",
    "builtins.apply",
    "builtins.map",
    "torch.load",
    "torch.hub",
    "torch.jit",
    "torch.serialization",
    "torch.utils.data",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed",
    "torch.storage._load_from_bytes",
    "numpy.testing",
    "numpy.load",
    "numpy.distutils",
    "numpy.f2py",
    "numpy.core.multiarray.fromfile",
];

/// What ordinary checkpoints import, and what only holds data.
const HARMLESS: &[&str] = &[
    "collections.OrderedDict",
    "collections.defaultdict",
    "collections.Counter",
    "collections.deque",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_qtensor",
    "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_meta_tensor_no_storage",
    "torch._tensor._rebuild_from_type_v2",
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
    "torch.Size",
    "torch.device",
    "torch.dtype",
    "torch.FloatStorage",
    "torch.HalfStorage",
    "torch.DoubleStorage",
    "torch.LongStorage",
    "torch.IntStorage",
    "torch.ShortStorage",
    "torch.CharStorage",
    "torch.ByteStorage",
    "torch.BoolStorage",
    "torch.BFloat16Storage",
    "torch.ComplexFloatStorage",
    "torch.ComplexDoubleStorage",
    "torch.storage.UntypedStorage",
    "torch.storage.TypedStorage",
    "torch.UntypedStorage",
    "torch.float32",
    "torch.float16",
    "torch.bfloat16",
    "torch.float64",
    "torch.int64",
    "torch.int32",
    "torch.int16",
    "torch.int8",
    "torch.uint8",
    "torch.bool",
    "torch.float8_e4m3fn",
    "torch.float8_e5m2",
    "torch.serialization._get_layout",
    "torch.strided",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.numeric._frombuffer",
    "numpy._core.numeric._frombuffer",
    "_codecs.encode",
    "builtins.set",
    "builtins.frozenset",
    "builtins.dict",
    "builtins.list",
    "builtins.tuple",
    "builtins.int",
    "builtins.float",
    "builtins.bool",
    "builtins.str",
    "builtins.bytes",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.slice",
    "builtins.range",
    "builtins.object",
    "argparse.Namespace",
    "datetime.datetime",
    "datetime.timedelta",
    "datetime.timezone",
    "copyreg._reconstructor",
];

fn danger(import: &str) -> Danger {
    if import == COMPUTED {
        return Danger::Code;
    }
    // Python 2 had another name for it.
    let import = &import.replace("__builtin__.", "builtins.");
    if HARMLESS.contains(&import.as_str()) {
        return Danger::None;
    }
    let within =
        |name: &&str| import == *name || import.strip_prefix(*name).is_some_and(|rest| rest.starts_with('.'));
    if CODE.iter().any(within) { Danger::Code } else { Danger::Unknown }
}
