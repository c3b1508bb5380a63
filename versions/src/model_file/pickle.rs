//! Pickles of Python: every opcode is walked and none is run. What a pickle can do is what it imports, by `GLOBAL`,
//! `INST` and `STACK_GLOBAL`, and by the numbers of `EXT`; so all imports are gathered, and those that are not known
//! to be harmless are told. A name that is not plainly there, but computed, counts as the worst.
//! (Opcodes: CPython's `Lib/pickletools.py`.)
//!
//! A file may have several pickles, one after another, of which any may be loaded. Those of torch's first format are
//! five, and raw numbers follow; of others all are walked until what follows is no pickle.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Seek};

use super::imports::Imports;
use super::{Broken, ModelInfo, broken, limit};

/// The pickles of torch's first format, of which the first is this number.
const TORCH: usize = 5;
const TORCH_NUMBER: [&[u8]; 2] =
    [b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", b"L119547037146038801333356L\n"];
/// What is read of one file, and no more.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Opcodes of all its pickles.
    pub(super) opcodes: u64,
    /// Bytes that the pickles in a zip file unpack to.
    pub(super) unpacked: u64,
    /// Bytes of the directory of a zip file; each entry takes some fifty, and ten times as much in memory.
    pub(super) directory: u64,
}

/// torch takes 32 opcodes for a tensor, and a hundred with what an optimizer keeps of it, so that 65,536 tensors have 6.6
/// million. These are walked in a fraction of a second.
const OPCODES: u64 = 1 << 24;
pub(super) const LIMITS: Limits = Limits { opcodes: OPCODES, unpacked: 512 << 20, directory: 8 << 20 };
/// A name, or a number in digits, is no longer than this.
const LINE_MAX: u64 = 1 << 16;
/// Of longer texts nothing is kept: they are no names.
const TEXT_MAX: u64 = 512;
/// Memo entries that are told apart.
const MEMO_MAX: u64 = 1 << 20;
/// Bytes of the texts in a memo that are kept.
const MEMO_TEXTS: usize = 8 << 20;

/// A file that begins with a pickle, of which `start` are the first bytes.
pub(super) fn read(
    file: &mut impl Read,
    start: &[u8],
    limits: &Limits,
    info: &mut ModelInfo,
) -> Result<(), Broken> {
    let body = if let [0x80, _, body @ ..] = start { body } else { start };
    let is_torch = TORCH_NUMBER.iter().any(|number| body.starts_with(number));
    let reader = BufReader::with_capacity(1 << 16, file);
    let mut walk = Walk { reader, imports: Imports::default(), left: limits.opcodes, most: limits.opcodes };
    let mut all = Imports::default();
    let mut ended = walk.pickle();
    all.append(std::mem::take(&mut walk.imports));
    let mut walked = 1;
    while ended.is_ok() && !(is_torch && walked == TORCH) {
        let next = walk.reader.fill_buf()?;
        if next.is_empty() {
            break;
        }
        // One that says its protocol is one; of any other bytes their end tells, or what they would have imported.
        let sure = is_torch || matches!(next, [0x80, 0..=5, ..]);
        let found = walk.pickle();
        let imports = std::mem::take(&mut walk.imports);
        match found {
            found if sure || found.is_ok() => {
                all.append(imports);
                ended = found;
            }
            Err(Broken::Rule(_)) => {
                all.append_plausible(imports);
                break;
            }
            found => {
                all.append_plausible(imports);
                ended = found;
            }
        }
        walked += 1;
    }
    all.tell(info);
    ended
}

/// A zip file with pickles in it.
pub(super) fn read_zip(
    file: &mut (impl Read + Seek),
    limits: &Limits,
    info: &mut ModelInfo,
) -> Result<(), Broken> {
    let left = Cell::new(limits.directory);
    let unreadable = |error: zip::result::ZipError| match error {
        _ if left.get() == 0 => {
            Broken::Limit(format!("the directory of its zip has more than {} bytes", limits.directory))
        }
        zip::result::ZipError::Io(error) => Broken::from(error),
        error => Broken::Rule(format!("its zip directory cannot be read: {error}")),
    };
    let mut archive = zip::ZipArchive::new(Metered { inner: file, left: &left }).map_err(unreadable)?;
    if archive.has_duplicate_names() {
        // Who loads it may see the other one.
        return broken("two entries of it have the same name".to_owned());
    }
    let mut pickles = Vec::new();
    for index in 0..archive.len() {
        left.set(u64::MAX);
        let name = match archive.by_index_raw(index).map_err(unreadable)?.name() {
            Ok(name) => name.into_owned(),
            Err(error) => return broken(format!("a name in its zip directory cannot be read: {error}")),
        };
        // What loads it may not care about case.
        if name.to_ascii_lowercase().ends_with(".pkl") {
            pickles.push((index, name));
        }
    }
    if pickles.is_empty() {
        return broken("it is a zip file without a pickle");
    }
    let (mut imports, mut ended, mut opcodes) = (Imports::default(), Ok(()), limits.opcodes);
    let unpacked = Cell::new(limits.unpacked);
    for (index, name) in pickles {
        let walked = match archive.by_index(index) {
            Ok(entry) => {
                let reader = BufReader::new(Metered { inner: entry, left: &unpacked });
                let mut walk = Walk { reader, imports, left: opcodes, most: limits.opcodes };
                let walked = walk.pickle();
                (imports, opcodes) = (walk.imports, walk.left);
                match walked {
                    Err(_) if unpacked.get() == 0 => {
                        limit(format!("the pickles in its zip have more than {} bytes", limits.unpacked))
                    }
                    walked => walked,
                }
            }
            Err(error) => broken(format!("{name} in it cannot be read: {error}")),
        };
        ended = ended.and(walked);
        if matches!(ended, Err(Broken::Limit(_))) {
            break;
        }
    }
    imports.tell(info);
    ended
}

/// Gives no more than so many bytes.
struct Metered<'a, R> {
    inner: R,
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left.get()).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.inner.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - count as u64);
        Ok(count)
    }
}

impl<R: Seek> Seek for Metered<'_, R> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

struct Walk<R> {
    reader: BufReader<R>,
    imports: Imports,
    /// Opcodes that may still be walked.
    left: u64,
    /// Opcodes that may be walked of the whole file.
    most: u64,
}

/// What `STACK_GLOBAL` needs of the machine: the two topmost values where they are texts that stand in the file, and
/// what the memo has of such texts.
#[derive(Default)]
struct Machine {
    top: [Option<String>; 2],
    memo: HashMap<u64, String>,
    /// Bytes of those texts.
    kept: usize,
    /// Which indexes of the memo were written, a bit each. `MEMOIZE` takes their number; one that is written again is
    /// no new one.
    written: Vec<u64>,
    entries: u64,
    /// An index was too high: nobody can say any more which entry is which.
    lost: bool,
}

impl Machine {
    fn push(&mut self, value: Option<String>) {
        self.top = [self.top[1].take(), value];
    }

    fn put(&mut self, index: u64) {
        if index >= MEMO_MAX {
            self.lost = true;
            return;
        }
        let (word, bit) = ((index / 64) as usize, 1 << (index % 64));
        if self.written.len() <= word {
            self.written.resize(word + 1, 0);
        }
        if let Some(written) = self.written.get_mut(word) {
            self.entries += u64::from(*written & bit == 0);
            *written |= bit;
        }
        self.kept -= self.memo.remove(&index).map_or(0, |text| text.len());
        // What is not kept is not known, and counts as computed.
        let text =
            self.top[1].as_ref().filter(|text| self.kept + text.len() + self.memo.len() * 64 < MEMO_TEXTS);
        if let Some(text) = text {
            self.kept += text.len();
            self.memo.insert(index, text.clone());
        }
    }

    fn get(&mut self, index: u64) {
        let value = self.memo.get(&index).filter(|_| !self.lost).cloned();
        self.push(value);
    }
}

impl<R: Read> Walk<R> {
    /// Walks to the end of one pickle.
    fn pickle(&mut self) -> Result<(), Broken> {
        let mut machine = Machine::default();
        loop {
            let Some(left) = self.left.checked_sub(1) else {
                return limit(format!("it has more than {} opcodes in its pickles", self.most));
            };
            self.left = left;
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
                    self.imports.add(&module, &name);
                    machine.push(None);
                }
                0x93 => {
                    match &machine.top {
                        [Some(module), Some(name)] => self.imports.add(module, name),
                        _ => self.imports.computed(),
                    }
                    machine.push(None);
                }
                0x82..=0x84 => {
                    let code = self.number(1 << (opcode - 0x82))?;
                    self.imports.extension(code);
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
