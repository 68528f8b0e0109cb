//! Causes that messages, exit codes and logs have in common.

use super::definition::Definition;
use super::excerpt::excerpt;
use super::{Cause, CauseKind};

/// An image for another CPU architecture than the task's.
pub(crate) fn wrong_architecture(container: Option<&str>, definition: &Definition<'_>, exec: bool) -> Cause {
    let architecture = definition.architecture();
    let named = container.and_then(|name| Some((name, definition.image(name)?)));
    let image = match (named, container) {
        (Some((name, image)), _) => format!("image `{image}` of container `{name}`"),
        (None, Some(name)) => format!("the image of container `{name}`"),
        (None, None) => "the image".to_owned(),
    };
    let (platform, other) =
        if architecture == "ARM64" { ("linux/arm64", "X86_64") } else { ("linux/amd64", "ARM64") };
    let script = if exec { "; a script needs a first line like `#!/bin/sh`" } else { "" };
    Cause::new(
        CauseKind::WrongArchitecture,
        container,
        format!("{image} is not built for {architecture}, the architecture of the task definition"),
    )
    .help(format!(
        "build the image for {platform}, or set `runtimePlatform.cpuArchitecture` to {other}{script}"
    ))
}

/// A command that does not exist or is not executable.
pub(crate) fn no_command(container: Option<&str>, message: &str, definition: &Definition<'_>) -> Cause {
    let subject = container.map_or_else(|| "a container".to_owned(), |name| format!("container `{name}`"));
    let image = container.and_then(|name| definition.image(name));
    let image = image.map_or_else(|| "its image".to_owned(), |image| format!("image `{image}`"));
    let command = command_in(message)
        .map_or_else(|| "the command".to_owned(), |command| format!("command `{command}`"));
    let (sentence, help) = if message.contains("permission denied") || message.contains("is a directory") {
        (
            format!("{subject} cannot start: {command} of {image} cannot be run"),
            "make the file executable in the image (`chmod +x`), and check that it is a program or a \
             script",
        )
    } else {
        (
            format!("{subject} cannot start: {command} of {image} does not exist"),
            "correct `command` or `entryPoint`; if the file exists, its interpreter or a library is \
             missing, or it has Windows line endings",
        )
    };
    Cause::new(CauseKind::NoSuchCommand, container, sentence).help(help)
}

/// The command in a message of runc: `exec: "/app": stat /app: …`, or `exec /app: …`.
fn command_in(message: &str) -> Option<&str> {
    let quoted = message.split_once("exec: ").map(|(_, rest)| rest.trim_start_matches(['\\', '"']));
    let plain = || message.trim().strip_prefix("exec ");
    let rest = quoted.or_else(plain)?;
    let end = if quoted.is_some() { rest.find(['\\', '"']) } else { rest.find(": ") };
    end.map(|end| &rest[..end]).filter(|command| !command.is_empty() && !command.starts_with("user process"))
}

/// A container that exceeded its memory limit. `output` is its own message about that.
pub(crate) fn memory(container: Option<&str>, definition: &Definition<'_>, output: Option<&str>) -> Cause {
    let subject = container.map_or_else(|| "a container".to_owned(), |name| format!("container `{name}`"));
    let limit = container.and_then(|name| definition.memory(name));
    let limit = limit.map(|limit| format!(" (limit {limit})")).unwrap_or_default();
    let output = output.map(|output| format!(": {}", excerpt(output))).unwrap_or_default();
    Cause::new(CauseKind::OutOfMemory, container, format!("{subject} ran out of memory{limit}{output}"))
        .help("give the container or the task more `memory`, or reduce the program's memory use")
}
