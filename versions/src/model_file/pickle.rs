//! Pickles of Python: every opcode is walked and none is run. What a pickle can do is what it imports, by `GLOBAL`,
//! `INST` and `STACK_GLOBAL`, and by the numbers of `EXT`; so all imports are gathered, and those that are not known
//! to be harmless are told. A name that is not plainly there, but computed, counts as the worst.
//! (Opcodes: CPython's `Lib/pickletools.py`.)

use std::collections::{BTreeSet, HashMap};
use std::io::{self, BufRead, BufReader, Read, Seek};

use super::{Broken, Finding, ModelInfo, broken};

/// The pickles that `torch.load` takes one after another from a file of its first format.
const PICKLES: usize = 5;
/// A name, or a number in digits, is no longer than this.
const LINE_MAX: u64 = 1 << 16;
/// Of longer texts nothing is kept: they are no names.
const TEXT_MAX: u64 = 1 << 12;
/// Memo entries that are kept.
const MEMO_MAX: usize = 1 << 20;
/// What stands for a name that is computed.
const COMPUTED: &str = "a name that it computes";

/// A file that begins with a pickle.
pub(super) fn read(file: &mut impl Read, info: &mut ModelInfo) -> Result<(), Broken> {
    let mut walk = Walk { reader: BufReader::with_capacity(1 << 16, file), imports: BTreeSet::new() };
    let mut ended = Ok(());
    for _ in 0..PICKLES {
        ended = walk.pickle();
        // Raw numbers follow the last one.
        let more = ended.is_ok() && matches!(walk.reader.fill_buf()?, [0x80, 0..=5, ..]);
        if !more {
            break;
        }
    }
    tell(walk.imports, info);
    ended
}

/// A zip file with pickles in it.
pub(super) fn read_zip(file: &mut (impl Read + Seek), info: &mut ModelInfo) -> Result<(), Broken> {
    let unreadable = |error: zip::result::ZipError| match error {
        zip::result::ZipError::Io(error) => Broken::from(error),
        error => Broken::Rule(format!("its zip directory cannot be read: {error}")),
    };
    let mut archive = zip::ZipArchive::new(file).map_err(unreadable)?;
    if archive.has_duplicate_names() {
        // Who loads it may see the other one.
        return broken("two entries of it have the same name".to_owned());
    }
    let mut imports = BTreeSet::new();
    let (mut found, mut ended) = (false, Ok(()));
    for index in 0..archive.len() {
        let name = match archive.by_index_raw(index).map_err(unreadable)?.name() {
            Ok(name) => name.into_owned(),
            Err(error) => return broken(format!("a name in its zip directory cannot be read: {error}")),
        };
        // What loads it may not care about case.
        if !name.to_ascii_lowercase().ends_with(".pkl") {
            continue;
        }
        found = true;
        let walked = match archive.by_index(index) {
            Ok(entry) => {
                let mut walk = Walk { reader: BufReader::new(entry), imports };
                let walked = walk.pickle();
                imports = walk.imports;
                walked
            }
            Err(error) => broken(format!("{name} in it cannot be read: {error}")),
        };
        ended = ended.and(walked);
    }
    tell(imports, info);
    if !found {
        return broken("it is a zip file without a pickle");
    }
    ended
}

fn tell(imports: BTreeSet<String>, info: &mut ModelInfo) {
    for import in &imports {
        let import = import.clone();
        match danger(&import) {
            Danger::None => {}
            Danger::Code => info.findings.push(Finding::RunsCode { import }),
            Danger::Unknown => info.findings.push(Finding::UnknownImport { import }),
        }
    }
    info.imports = imports.into_iter().collect();
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

struct Walk<R> {
    reader: BufReader<R>,
    imports: BTreeSet<String>,
}

/// What `STACK_GLOBAL` needs of the machine: the two topmost values where they are texts that stand in the file, and
/// what the memo has of such texts.
#[derive(Default)]
struct Machine {
    top: [Option<String>; 2],
    memo: HashMap<u64, Option<String>>,
    /// `MEMOIZE` takes the number of entries; one that is written again is no new one.
    entries: u64,
}

impl Machine {
    fn push(&mut self, value: Option<String>) {
        self.top = [self.top[1].take(), value];
    }

    fn put(&mut self, index: u64) {
        if !self.memo.contains_key(&index) {
            self.entries += 1;
        }
        // What is not kept is not known, and counts as computed.
        if self.memo.len() < MEMO_MAX || self.memo.contains_key(&index) {
            self.memo.insert(index, self.top[1].clone());
        }
    }

    fn get(&mut self, index: u64) {
        // Of a full memo nobody can say which entry came last.
        let known = if self.memo.len() < MEMO_MAX { self.memo.get(&index) } else { None };
        let value = known.cloned().flatten();
        self.push(value);
    }
}

impl<R: Read> Walk<R> {
    /// Walks to the end of one pickle.
    fn pickle(&mut self) -> Result<(), Broken> {
        let mut machine = Machine::default();
        loop {
            let opcode = self.number(1)? as u8;
            match opcode {
                b'.' => return Ok(()),
                // PROTO, FRAME and MARK change nothing that a name could be.
                0x80 => {
                    self.number(1)?;
                }
                0x95 => {
                    self.number(8)?;
                }
                b'c' | b'i' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.imports.insert(format!("{module}.{name}"));
                    machine.push(None);
                }
                0x93 => {
                    let import = match &machine.top {
                        [Some(module), Some(name)] => format!("{module}.{name}"),
                        _ => COMPUTED.to_owned(),
                    };
                    self.imports.insert(import);
                    machine.push(None);
                }
                0x82..=0x84 => {
                    let code = self.number(1 << (opcode - 0x82))?;
                    self.imports.insert(format!("the extension {code}"));
                    machine.push(None);
                }
                b'q' | b'r' => {
                    let index = self.number(if opcode == b'q' { 1 } else { 4 })?;
                    machine.put(index);
                }
                b'p' => {
                    let index = self.digits()?;
                    machine.put(index);
                }
                0x94 => {
                    let index = machine.entries;
                    machine.put(index);
                }
                b'h' | b'j' => {
                    let index = self.number(if opcode == b'h' { 1 } else { 4 })?;
                    machine.get(index);
                }
                b'g' => {
                    let index = self.digits()?;
                    machine.get(index);
                }
                b'S' | b'V' => {
                    let line = self.line()?;
                    let text = if opcode == b'S' { line.trim_matches(['\'', '"']) } else { &line };
                    // An escape could spell any name.
                    let plain = !text.contains('\\');
                    machine.push(plain.then(|| text.to_owned()));
                }
                0x8c | b'U' => self.text(1, &mut machine)?,
                b'X' | b'T' => self.text(4, &mut machine)?,
                0x8d => self.text(8, &mut machine)?,
                b'C' | 0x8a => self.blob(1, &mut machine)?,
                b'B' | 0x8b => self.blob(4, &mut machine)?,
                0x8e | 0x96 => self.blob(8, &mut machine)?,
                b'F' | b'I' | b'L' | b'P' => {
                    self.line()?;
                    machine.push(None);
                }
                b'K' => self.skip_number(1, &mut machine)?,
                b'M' => self.skip_number(2, &mut machine)?,
                b'J' => self.skip_number(4, &mut machine)?,
                b'G' => self.skip_number(8, &mut machine)?,
                b'('
                | b'0'
                | b'1'
                | b'2'
                | b'N'
                | b'Q'
                | b'R'
                | b'a'
                | b'b'
                | b'd'
                | b'e'
                | b'l'
                | b'o'
                | b's'
                | b't'
                | b'u'
                | b'}'
                | b']'
                | b')'
                | 0x81
                | 0x85..=0x89
                | 0x8f..=0x92
                | 0x97
                | 0x98 => {
                    // What is on top now is no text that was just read; POP could even uncover another.
                    machine.top = [None, None];
                }
                other => return broken(format!("it has the unknown opcode {other:#04x} in its pickle")),
            }
        }
    }

    fn number(&mut self, bytes: usize) -> Result<u64, Broken> {
        let mut number = [0; 8];
        self.reader.read_exact(&mut number[..bytes])?;
        Ok(u64::from_le_bytes(number))
    }

    fn skip_number(&mut self, bytes: usize, machine: &mut Machine) -> Result<(), Broken> {
        self.number(bytes)?;
        machine.push(None);
        Ok(())
    }

    fn line(&mut self) -> Result<String, Broken> {
        let mut line = Vec::new();
        self.reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)?;
        match line.pop() {
            Some(b'\n') => Ok(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned()),
            _ => broken("it has a line without end in its pickle"),
        }
    }

    fn digits(&mut self) -> Result<u64, Broken> {
        let line = self.line()?;
        line.trim().parse().map_err(|_| Broken::Rule(format!("it has {line:?} for a number in its pickle")))
    }

    fn text(&mut self, bytes: usize, machine: &mut Machine) -> Result<(), Broken> {
        let length = self.number(bytes)?;
        if length > TEXT_MAX {
            self.skip(length)?;
            machine.push(None);
            return Ok(());
        }
        let mut text = vec![0; length as usize];
        self.reader.read_exact(&mut text)?;
        machine.push(String::from_utf8(text).ok());
        Ok(())
    }

    fn blob(&mut self, bytes: usize, machine: &mut Machine) -> Result<(), Broken> {
        let length = self.number(bytes)?;
        self.skip(length)?;
        machine.push(None);
        Ok(())
    }

    fn skip(&mut self, length: u64) -> Result<(), Broken> {
        let skipped = io::copy(&mut self.reader.by_ref().take(length), &mut io::sink())?;
        if skipped == length { Ok(()) } else { broken("it ends too early") }
    }
}
