//! An engine where none runs: inside a privileged container of CodeBuild its own `dockerd` can be started.

use super::host::{DEFAULT_SOCKET, Endpoint};
use super::{DockerError, Engine};
use std::ffi::OsStr;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `dockerd` is started with.
pub(crate) const ARGUMENTS: [&str; 1] = ["--host=unix:///var/run/docker.sock"];
/// What it gets into its environment: otherwise BuildKit clips what builds print.
pub(crate) const ENVIRONMENT: [(&str, &str); 2] =
    [("BUILDKIT_STEP_LOG_MAX_SIZE", "-1"), ("BUILDKIT_STEP_LOG_MAX_SPEED", "-1")];
/// How long it may take to come up.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(100);
/// The file in which `dockerd` notes its process.
const PID_FILE: &str = "/var/run/docker.pid";
/// How many lines of its log are shown.
const SHOWN: usize = 20;
/// How much of its log is read for that, in bytes.
const READ: u64 = 16 * 1024;

/// What keeps a container from running an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Privileges {
    All,
    /// It has them, but not this user.
    NotThisUser,
    /// Privileged mode is off.
    Off,
}

impl Privileges {
    /// What `/proc/self/status` shows of `CAP_SYS_ADMIN`; see capabilities(7).
    fn read(status: &str) -> Self {
        const SYS_ADMIN: u64 = 1 << 21;
        let has = |name: &str| {
            let set = status.lines().find_map(|line| line.strip_prefix(name));
            let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
            // Where nothing is known nothing is held against it.
            set.is_none_or(|set| set & SYS_ADMIN != 0)
        };
        if has("CapEff:") {
            Self::All
        } else if has("CapBnd:") {
            Self::NotThisUser
        } else {
            Self::Off
        }
    }
}

/// What can be done in a container of CodeBuild where no engine answers: the `dockerd` of `path` (the value of `PATH`) that
/// would serve, or a better error.
pub(crate) fn remedy(error: DockerError, endpoint: &Endpoint, path: &OsStr) -> Result<PathBuf, DockerError> {
    let (DockerError::NoSocket(socket) | DockerError::NoListener(socket)) = &error else {
        return Err(error);
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    match Privileges::read(&status) {
        Privileges::Off => return Err(DockerError::NotPrivileged(socket.clone())),
        // What somebody else has named is theirs to start.
        _ if !endpoint.is_usual() => return Err(error),
        Privileges::NotThisUser => return Err(DockerError::NotRoot(super::user())),
        Privileges::All => {}
    }
    std::env::split_paths(path)
        .map(|directory| directory.join("dockerd"))
        .find(|program| program.is_file())
        .ok_or(DockerError::NoDaemon)
}

/// The process of a `dockerd` that has begun to come up, or has come up.
pub(crate) fn running() -> Option<i32> {
    let pid = std::fs::read_to_string(PID_FILE).ok()?.trim().parse().ok()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim() == "dockerd").then_some(pid)
}

/// Waits until the engine answers on the usual socket. `ended` is through when its process is.
pub(crate) async fn up(ended: impl Future<Output = ()>, log: &Path) -> Result<Engine, DockerError> {
    let answer = async {
        loop {
            match Engine::connect(&Endpoint::default()).await {
                Err(
                    DockerError::NoSocket(_) | DockerError::NoListener(_) | DockerError::Unreachable { .. },
                ) => {
                    tokio::time::sleep(LOOK).await;
                }
                answer => return answer,
            }
        }
    };
    let what = tokio::select! {
        biased;
        answer = answer => return answer,
        () = ended => "ended before it answered".to_owned(),
        () = tokio::time::sleep(PATIENCE) => format!("does not answer on {DEFAULT_SOCKET} within {} s", PATIENCE.as_secs()),
    };
    Err(DockerError::Daemon { what, lines: last_lines(log) })
}

/// The end of a log.
fn last_lines(log: &Path) -> Vec<String> {
    let read = || {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(READ)))?;
        let mut bytes = Vec::new();
        file.take(READ).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_are_read_off_the_capabilities() {
        for (effective, bounding, expected) in [
            ("000001ffffffffff", "000001ffffffffff", Privileges::All),
            ("0000000000000000", "000001ffffffffff", Privileges::NotThisUser),
            // What a container has without privileged mode.
            ("00000000a80425fb", "00000000a80425fb", Privileges::Off),
        ] {
            let status = format!("Name:\trunner\nCapEff:\t{effective}\nCapBnd:\t{bounding}\n");
            assert_eq!(Privileges::read(&status), expected);
        }
        assert_eq!(Privileges::read(""), Privileges::All);
    }
}
