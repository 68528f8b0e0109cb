//! Interprets exit codes and last log lines of containers.

use super::common::{memory, no_command, wrong_architecture};
use super::definition::Definition;
use super::{Cause, CauseKind, Evidence, containers};
use crate::ecs::task::{Container, Task};
use regex::Regex;
use std::sync::LazyLock;

/// Messages of programs that ran out of memory.
const MEMORY: [&str; 9] = [
    "JavaScript heap out of memory",
    "java.lang.OutOfMemoryError",
    "fatal error: runtime: out of memory",
    "System.OutOfMemoryException",
    "NoMemoryError",
    "Allowed memory size of",
    "Cannot allocate memory",
    "memory allocation of",
    "std::bad_alloc",
];

/// Messages of programs whose port is in use, in lower case.
const PORT: [&str; 5] = [
    "eaddrinuse",
    "address already in use",
    "port is already allocated",
    "connection in use: (",
    "only one usage of each socket address",
];

/// The exit of the essential container that stopped the task.
pub(crate) fn essential(evidence: &Evidence<'_>, definition: &Definition<'_>) -> Option<Cause> {
    // ECS stops the remaining containers with SIGTERM, so their codes are the least significant.
    let rank = |code: i32| match code {
        143 => 0,
        0 => 1,
        137 => 2,
        _ => 3,
    };
    let ended = containers(evidence.task, definition, true)
        .filter_map(|container| Some((container, container.exit_code?)));
    let first = ended.reduce(|best, next| if rank(next.1) > rank(best.1) { next } else { best });
    first.map(|(container, code)| of_code(evidence, definition, container, code))
}

/// The exit of another container, on which the essential ones may depend.
pub(crate) fn other(evidence: &Evidence<'_>, definition: &Definition<'_>) -> Option<Cause> {
    let mut ended = containers(evidence.task, definition, false)
        .filter_map(|container| Some((container, container.exit_code.filter(|code| *code != 0)?)));
    ended.next().map(|(container, code)| of_code(evidence, definition, container, code))
}

fn of_code(evidence: &Evidence<'_>, definition: &Definition<'_>, container: &Container, code: i32) -> Cause {
    let name = container.name.as_str();
    let lines = logged(evidence, name);
    if code != 0
        && exited_first(evidence.task)
        && let Some(cause) = from_log(lines, name, definition)
    {
        return cause;
    }
    match code {
        126 | 127 => command_failed(lines, name, code, definition),
        _ => exited(name, code),
    }
}

/// Whether a container's exit stopped the task. Otherwise its log does not explain the stop.
fn exited_first(task: &Task) -> bool {
    task.stop_code.as_deref() == Some("EssentialContainerExited")
        || task.stopped_reason.as_deref().is_some_and(|reason| reason.starts_with("Essential container"))
}

fn logged<'a>(evidence: &Evidence<'a>, name: &str) -> &'a [String] {
    let log = evidence.logs.iter().find(|log| log.container == name);
    log.map(|log| log.lines.as_slice()).unwrap_or_default()
}

/// The cause in the last log lines, latest first.
fn from_log(lines: &[String], name: &str, definition: &Definition<'_>) -> Option<Cause> {
    let find = |is_it: &dyn Fn(&str) -> bool| lines.iter().rev().find(|line| is_it(line));
    if find(&|line| line.to_lowercase().contains("exec format error")).is_some() {
        return Some(wrong_architecture(Some(name), definition, true));
    }
    if let Some(line) = find(&|line| is_exec_failure(line)) {
        return Some(no_command(Some(name), line, definition));
    }
    let is_about_port = |line: &str| {
        let line = line.to_lowercase();
        PORT.iter().any(|words| line.contains(words))
            || line.contains("port ") && line.contains("already in use")
    };
    if let Some(line) = find(&is_about_port) {
        return Some(port_in_use(name, line));
    }
    find(&|line| line == "MemoryError" || MEMORY.iter().any(|words| line.contains(words)))
        .map(|line| memory(Some(name), definition, Some(line.trim())))
}

/// Whether runc failed to run the container's command. Its message replaces the program's output.
fn is_exec_failure(line: &str) -> bool {
    let line = line.trim();
    let own =
        line.contains("exec user process caused") || line.starts_with("exec ") || line.contains("exec: \"");
    own && ["no such file or directory", "executable file not found", "permission denied"]
        .iter()
        .any(|words| line.contains(words))
}

/// The cause for a port in use, from a container's log or a runtime's message.
pub(crate) fn port_in_use(name: &str, words: &str) -> Cause {
    let port = port(words).map_or_else(|| "its port".to_owned(), |port| format!("port {port}"));
    Cause::new(
        CauseKind::PortInUse,
        Some(name),
        format!("container `{name}` cannot listen on {port}, which is in use"),
    )
    .help(
        "containers of one task share their ports in the network modes `awsvpc` and `host`: use a \
             different port for each, and start the program only once",
    )
}

fn port(words: &str) -> Option<&str> {
    static PORT: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let address = r"(?:\]|\*|:|\btcp[46]? |[0-9]+(?:\.[0-9]+){3}'?|localhost)(?::|, ?)";
        Regex::new(&format!(r"(?:\b[Pp]ort[ =:]+|{address})([0-9]{{1,5}})\b")).ok()
    });
    let found = PORT.as_ref()?.captures(words)?;
    found.get(1).map(|port| port.as_str())
}

fn command_failed(lines: &[String], name: &str, code: i32, definition: &Definition<'_>) -> Cause {
    let missing = lines.iter().rev().find_map(|line| not_found(line));
    let command = missing.map(ToOwned::to_owned).or_else(|| definition.command(name));
    let command = command.map_or_else(|| "a command".to_owned(), |command| format!("command `{command}`"));
    let failed = if code == 127 { "does not exist in its image" } else { "cannot be run" };
    let sentence = format!("container `{name}` ended with exit code {code}: {command} {failed}");
    Cause::new(CauseKind::NoSuchCommand, Some(name), sentence).help(if code == 127 {
        "correct `command` or `entryPoint`, or add the program to the image and its PATH"
    } else {
        "make the file executable in the image (`chmod +x`), and check that it is a program or a script"
    })
}

/// The command that a shell could not find.
fn not_found(line: &str) -> Option<&str> {
    let line = line.trim().trim_end_matches('.');
    let rest = line.strip_suffix(": command not found").or_else(|| line.strip_suffix(": not found"))?;
    rest.rsplit(": ").next().filter(|command| !command.is_empty())
}

fn exited(name: &str, code: i32) -> Cause {
    let subject = format!("container `{name}`");
    let cause = |sentence: String| Cause::new(CauseKind::Exited, Some(name), sentence);
    match code {
        0 => cause(format!(
            "{subject} ended with exit code 0, but a service's container must keep running"
        ))
        .help("keep the program in the foreground; a container that exits after its work must not be essential"),
        137 => cause(format!("{subject} was killed with SIGKILL (exit code 137)"))
            .help("the usual cause is a lack of memory: give the container or the task more `memory`"),
        139 => cause(format!("{subject} crashed with SIGSEGV (exit code 139), an invalid memory access")),
        143 => cause(format!("{subject} was stopped with SIGTERM (exit code 143)")),
        _ => match signal(code) {
            Some(signal) => cause(format!("{subject} ended with {signal} (exit code {code})")),
            None => cause(format!("{subject} ended with exit code {code}")),
        },
    }
}

fn signal(code: i32) -> Option<&'static str> {
    match code {
        129 => Some("SIGHUP"),
        130 => Some("SIGINT"),
        131 => Some("SIGQUIT"),
        132 => Some("SIGILL"),
        134 => Some("SIGABRT"),
        135 => Some("SIGBUS"),
        136 => Some("SIGFPE"),
        141 => Some("SIGPIPE"),
        _ => None,
    }
}
