//! Why the system cannot start a file that exists: it names an interpreter that does not.

use super::Command;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How much of a file is read. The kernel reads as much (`BINPRM_BUF_SIZE`).
const HEAD: u64 = 256;

/// What is wrong with a file that should be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Defect {
    /// The first line, which names the interpreter, ends as on Windows.
    WindowsLineEnd,
    /// The interpreter of a script is missing.
    NoInterpreter(String),
    /// The loader of a program is missing: it was built for another C library.
    NoLoader,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WindowsLineEnd => {
                f.write_str("has a Windows line end in its first line, which names its interpreter")
            }
            Self::NoInterpreter(interpreter) => {
                write!(f, "needs the interpreter `{interpreter}`, which is not on this machine")
            }
            Self::NoLoader => f.write_str("was built for another system: its loader is not on this machine"),
        }
    }
}

impl Defect {
    /// Looks for the defect of a file. A file that cannot be read has none.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        if !path.is_file() {
            return None;
        }
        let mut head = Vec::new();
        File::open(path).ok()?.take(HEAD).read_to_end(&mut head).ok()?;
        if head.starts_with(b"\x7fELF") {
            return Some(Self::NoLoader);
        }
        let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
        if line.ends_with(b"\r") {
            return Some(Self::WindowsLineEnd);
        }
        let line = String::from_utf8_lossy(line);
        let interpreter = line.split_whitespace().next()?;
        (!Path::new(interpreter).exists()).then(|| Self::NoInterpreter(interpreter.to_owned()))
    }

    /// What to do about it.
    pub(crate) fn help(&self) -> &'static str {
        match self {
            Self::WindowsLineEnd => {
                "convert the file to Unix line ends (`sed -i 's/\\r$//' FILE`), and keep them with `*.sh text eol=lf` in .gitattributes"
            }
            Self::NoInterpreter(_) => {
                "install the interpreter in the build image, or correct the first line of the file"
            }
            Self::NoLoader => "use a program that is built for the build image, or a static one",
        }
    }
}

/// The file of a command's program, as the system looks for it.
pub(super) fn file(command: &Command) -> Option<PathBuf> {
    let program = Path::new(command.argv.first()?);
    if program.as_os_str().as_bytes().contains(&b'/') {
        return Some(command.dir.join(program));
    }
    let (_, path) = command.env.iter().rev().find(|(name, _)| name == "PATH")?;
    std::env::split_paths(path).map(|directory| directory.join(program)).find(|file| file.is_file())
}
