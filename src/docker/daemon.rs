//! Starting an engine in a privileged CodeBuild container that has `dockerd`, but no running engine.

use super::host::{DEFAULT_SOCKET, Endpoint};
use super::{DockerError, Engine};
use std::ffi::OsStr;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The configuration of `dockerd`.
const CONFIGURATION: &str = "/etc/docker/daemon.json";
/// Its environment: by default BuildKit truncates the output of builds.
pub(crate) const ENVIRONMENT: [(&str, &str); 2] =
    [("BUILDKIT_STEP_LOG_MAX_SIZE", "-1"), ("BUILDKIT_STEP_LOG_MAX_SPEED", "-1")];
/// How long it may take to become ready.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// The interval at which it is polled until then.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The file with the process id of `dockerd`.
const PID_FILE: &str = "/var/run/docker.pid";
/// How many lines of its log are reported after a failure.
const LOG_LINES: usize = 20;
/// How much of its log is read for that, in bytes.
const LOG_BYTES: u64 = 16 * 1024;

/// Whether this process has the privileges to run an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Privileges {
    All,
    /// The container has them, but the user of this process does not.
    NotThisUser,
    /// Privileged mode is off.
    Off,
}

impl Privileges {
    /// Reads `CAP_SYS_ADMIN` from the text of `/proc/self/status`; see capabilities(7).
    fn parse(status: &str) -> Self {
        const SYS_ADMIN: u64 = 1 << 21;
        let has = |name: &str| {
            let set = status.lines().find_map(|line| line.strip_prefix(name));
            let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
            // If it is unknown, assume that the privilege is there: `dockerd` reports the real problem.
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

/// Finds the `dockerd` in `path` (the value of `PATH`) to start in a CodeBuild container after connecting failed with
/// `error`. Otherwise returns a more precise error.
pub(crate) fn find(error: DockerError, endpoint: &Endpoint, path: &OsStr) -> Result<PathBuf, DockerError> {
    let (DockerError::NoSocket(socket) | DockerError::NoListener(socket)) = &error else {
        return Err(error);
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    match Privileges::parse(&status) {
        Privileges::Off => return Err(DockerError::NotPrivileged(socket.clone())),
        // If a variable names an address, starting its engine is the job of whoever set the variable.
        _ if !endpoint.is_default() => return Err(error),
        Privileges::NotThisUser => return Err(DockerError::NotRoot(super::user())),
        Privileges::All => {}
    }
    std::env::split_paths(path)
        .map(|directory| directory.join("dockerd"))
        .find(|program| program.is_file())
        .ok_or(DockerError::NoDaemon)
}

/// Returns the arguments of `dockerd`.
pub(crate) fn arguments() -> Vec<&'static str> {
    let mut arguments = vec!["--host=unix:///var/run/docker.sock"];
    arguments.extend(storage(Path::new(CONFIGURATION)));
    arguments
}

/// Returns the argument that selects the storage, unless the configuration does. From version 29 on a new engine would
/// take containerd's image store. CodeBuild's own script names this driver, too.
fn storage(configuration: &Path) -> Option<&'static str> {
    const DRIVER: &str = "--storage-driver=overlay2";
    let Ok(text) = std::fs::read(configuration) else { return Some(DRIVER) };
    // The engine reports a configuration that cannot be read.
    let known: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let is_chosen =
        known.get("storage-driver").is_some() || known["features"].get("containerd-snapshotter").is_some();
    (!is_chosen).then_some(DRIVER)
}

/// Returns the process id of a `dockerd` that is starting or running.
pub(crate) fn running() -> Option<i32> {
    let pid = std::fs::read_to_string(PID_FILE).ok()?.trim().parse().ok()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim() == "dockerd").then_some(pid)
}

/// Waits until the engine responds on the default socket. `ended` resolves when its process ends.
pub(crate) async fn wait_until_ready(
    ended: impl Future<Output = ()>,
    log: &Path,
) -> Result<Engine, DockerError> {
    let answer = async {
        loop {
            match Engine::connect(&Endpoint::default()).await {
                Err(
                    DockerError::NoSocket(_) | DockerError::NoListener(_) | DockerError::Unreachable { .. },
                ) => {
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
                answer => return answer,
            }
        }
    };
    let outcome = tokio::select! {
        biased;
        answer = answer => return answer,
        () = ended => "ended before it answered".to_owned(),
        () = tokio::time::sleep(START_TIMEOUT) => format!("did not answer on {DEFAULT_SOCKET} within {} s", START_TIMEOUT.as_secs()),
    };
    Err(DockerError::Daemon { outcome, lines: last_lines(log) })
}

/// Returns the last lines of a log.
fn last_lines(log: &Path) -> Vec<String> {
    let read = || {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings, H13.
    #[test]
    fn the_storage_is_overlay2_unless_the_configuration_selects_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("daemon.json");
        assert!(storage(&path).is_some());
        for (text, selects) in [
            ("{}", true),
            (r#"{"features":{"buildkit":true},"log-level":"warn"}"#, true),
            (r#"{"storage-driver":"vfs"}"#, false),
            (r#"{"features":{"containerd-snapshotter":true}}"#, false),
            ("not JSON", false),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(storage(&path).is_some(), selects, "{text}");
        }
    }

    #[test]
    fn privileges_are_read_off_the_capabilities() {
        for (effective, bounding, expected) in [
            ("000001ffffffffff", "000001ffffffffff", Privileges::All),
            ("0000000000000000", "000001ffffffffff", Privileges::NotThisUser),
            // What a container has without privileged mode.
            ("00000000a80425fb", "00000000a80425fb", Privileges::Off),
        ] {
            let status = format!("Name:\trunner\nCapEff:\t{effective}\nCapBnd:\t{bounding}\n");
            assert_eq!(Privileges::parse(&status), expected);
        }
        assert_eq!(Privileges::parse(""), Privileges::All);
    }
}
