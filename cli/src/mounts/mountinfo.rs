//! `/proc/self/mountinfo` (proc_pid_mountinfo(5)), as far as we need it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::MountsError;

const PATH: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) id: u32,
    /// The mount that it lies on.
    pub(super) parent: u32,
    /// Of the filesystem, as `0:51`: no other that is mounted has it.
    pub(super) device: String,
    pub(super) mountpoint: PathBuf,
    pub(super) kind: String,
    pub(super) source: String,
}

/// All mounts, those that hide others behind them.
pub(super) fn read() -> Result<Vec<Line>, MountsError> {
    let text = std::fs::read(PATH).map_err(MountsError::io("read", PATH))?;
    Ok(text.split(|&b| b == b'\n').filter_map(parse).collect())
}

fn parse(line: &[u8]) -> Option<Line> {
    let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    // The optional fields end at a lone hyphen.
    let rest = 1 + fields.iter().position(|field| *field == b"-")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(&unescape(bytes)).into_owned();
    let number = |at: usize| std::str::from_utf8(fields.get(at)?).ok()?.parse().ok();
    Some(Line {
        id: number(0)?,
        parent: number(1)?,
        device: text(fields.get(2)?),
        mountpoint: OsString::from_vec(unescape(fields.get(4)?)).into(),
        kind: text(fields.get(rest)?),
        source: text(fields.get(rest + 1)?),
    })
}

/// Space, tab, newline and backslash are written in octal.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while let Some(&byte) = field.get(at) {
        let octal =
            field.get(at + 1..at + 4).filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) if byte == b'\\' => {
                let value = digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                out.push(value as u8);
                at += 4;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_their_escapes() {
        let line = br"36 35 0:51 / /mnt/a\040b\134c rw,noatime shared:7 - fuse.cvs cvs:wan22 rw,user_id=0";
        let expected = Line {
            id: 36,
            parent: 35,
            device: "0:51".to_owned(),
            mountpoint: r"/mnt/a b\c".into(),
            kind: "fuse.cvs".to_owned(),
            source: "cvs:wan22".to_owned(),
        };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse(b""), None);
    }
}
